"""What a plan computes in float16, what stays in float32 and why, and whether attention is fused.

    proof.check("fp16")
    proof.rows()

Counted in the network before a plan is built (`densepack_export.plans.precision_audit`), and kept in the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

from densepack_runtime.errors import EngineBuildError, named
from densepack_runtime.sessions.session import Precision

# Why a layer of a float16 graph computes in float32, by the name of its LayerType.
REASONS = {
    "NORMALIZATION": "LayerNorm: sums over the hidden width",
    "SOFTMAX": "softmax: sums of exponentials",
    "CAST": "the way into and out of float32",
    "ELEMENTWISE": "sums that go into LayerNorm or softmax",
    "GATHER": "logits, which leave in float32",
}


@dataclass(frozen=True, slots=True)
class PrecisionProof:
    """`products` matrix products, of which `other` (name and types) are not Half; `float32` counts layers by kind.

    `attention` says whether attention is fused. `engine` is what the inspector found in the finished engine, empty
    where no GPU could tell.
    """

    products: int
    other: tuple[str, ...]
    float32: dict[str, int]
    attention: str
    engine: str = ""

    @property
    def half_products(self) -> int:
        return self.products - len(self.other)

    def check(self, precision: Precision, *, allow_fp32: bool = False) -> None:
        """Raise EngineBuildError when a product is not of the precision that was asked for."""
        if precision == "fp16" and self.other and not allow_fp32:
            raise EngineBuildError(
                f"{len(self.other)} of {self.products} matrix products are not in float16: {named(self.other)}. Build "
                "from the graph that was exported with precision fp16, or accept them with --allow-fp32"
            )
        if precision == "fp32" and self.half_products:
            raise EngineBuildError(
                f"{self.half_products} of {self.products} matrix products are in float16, and fp32 was asked for: "
                "build from the graph that was exported with precision fp32"
            )

    def rows(self) -> list[tuple[str, str]]:
        """What to show to a person: (what, value)."""
        rows = [("matrix products in float16", f"{self.half_products} of {self.products}")]
        rows += [("not in float16", name) for name in self.other if self.half_products]
        rows += [
            (f"in float32: {count} {kind.lower()}", REASONS.get(kind, "no reason known"))
            for kind, count in self.float32.items()
        ]
        rows.append(("attention", self.attention))
        rows.append(("engine inspector", self.engine or "no GPU here to ask"))
        return rows
