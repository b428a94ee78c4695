"""Proof of precision: what computes in float16, what stays in float32 and why, and whether attention is fused.

    proof = audit_network(trt, network)         # before building
    proof.check("fp16")
    proof.rows()

A TensorRT build of a float32 graph ends without an error and gives a float32 engine, several times slower. In a
strongly typed network the types of the parsed layers are those of the engine, so they are counted before building. On
a GPU the finished engine is inspected as well.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from densepack_runtime.errors import EngineBuildError
from densepack_runtime.sessions.session import Precision

if TYPE_CHECKING:
    import tensorrt as trt_types

# Layers that multiply matrices, by the names of LayerType; fused attention is reported by its input layer.
PRODUCT_LAYERS = ("MATRIX_MULTIPLY", "EINSUM", "CONVOLUTION", "ATTENTION_INPUT")
# Why a layer of a float16 graph computes in float32, by the name of its LayerType.
REASONS = {
    "NORMALIZATION": "LayerNorm: sums over the hidden width",
    "SOFTMAX": "softmax: sums of exponentials",
    "CAST": "the way into and out of float32",
    "ELEMENTWISE": "sums that go into LayerNorm or softmax",
    "GATHER": "logits, which leave in float32",
}
UNKNOWN_HERE = "unknown here: only the inspector on a GPU can tell"
_NAMED_IN_ERROR = 5
_FUSED_NAME = re.compile(r"mha|attention", re.IGNORECASE)


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
            named = ", ".join(self.other[:_NAMED_IN_ERROR])
            more = f" and {len(self.other) - _NAMED_IN_ERROR} more" if len(self.other) > _NAMED_IN_ERROR else ""
            raise EngineBuildError(
                f"{len(self.other)} of {self.products} matrix products are not in float16: {named}{more}. Build from "
                "the graph that was exported with precision fp16, or accept them with --allow-fp32"
            )
        if precision == "fp32" and self.half_products:
            raise EngineBuildError(
                f"{self.half_products} of {self.products} matrix products are in float16, and fp32 was asked for: "
                "build from the graph that was exported with precision fp32"
            )

    def with_engine(self, information: str) -> PrecisionProof:
        """The proof with what the engine inspector says about the finished engine (JSON)."""
        return replace(self, engine=describe_engine(information))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "other": list(self.other)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> PrecisionProof:
        """The proof as a manifest holds it."""
        return cls(**{**record, "other": tuple(record["other"])})

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


def audit_network(trt: ModuleType, network: trt_types.INetworkDefinition) -> PrecisionProof:
    """Count the matrix products of a parsed network, name those that are not Half, count what else is in float32."""
    kinds = {getattr(trt.LayerType, name) for name in PRODUCT_LAYERS if hasattr(trt.LayerType, name)}
    layers: list[Any] = [network.get_layer(index) for index in range(network.num_layers)]
    products = [layer for layer in layers if layer.type in kinds]
    typed = [(layer.name, sorted({dtype.name for dtype in _types(layer)})) for layer in products]
    single = Counter(layer.type.name for layer in layers if _computes_in_float32(layer) and layer.type not in kinds)
    return PrecisionProof(
        products=len(products),
        other=tuple(f"{name} ({', '.join(types)})" for name, types in typed if types != [trt.float16.name]),
        float32={kind: count for kind, count in single.most_common() if kind in REASONS},
        attention=_attention(layers),
    )


def _attention(layers: list[Any]) -> str:
    fused = sum(layer.type.name == "ATTENTION_INPUT" for layer in layers)
    written_out = sum(layer.type.name == "SOFTMAX" for layer in layers)
    if written_out:
        return f"{written_out} written out; fused or not is {UNKNOWN_HERE}"
    return f"{fused} fused (IAttention: one kernel, or the build fails)" if fused else "none"


def _computes_in_float32(layer: Any) -> bool:
    return any(layer.get_output(index).dtype.name == "FLOAT" for index in range(layer.num_outputs))


def _types(layer: Any) -> Iterator[Any]:
    """Types of the inputs and outputs that carry numbers (the mask of a fused attention may be boolean)."""
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        if tensor is not None and tensor.dtype.name != "BOOL":
            yield tensor.dtype
    for index in range(layer.num_outputs):
        yield layer.get_output(index).dtype


def describe_engine(information: str) -> str:
    """One line about the finished engine: layers, how many give Half, how many are fused attention."""
    layers = json.loads(information).get("Layers", [])
    described = [layer for layer in layers if isinstance(layer, dict)]
    if not described:
        return f"{len(layers)} layers without details"
    half = sum(any("Half" in str(output) for output in layer.get("Outputs", [])) for layer in described)
    names = [f"{layer.get('TacticName', '')} {layer.get('Name', '')}" for layer in described]
    attention = sum(_FUSED_NAME.search(name) is not None for name in names)
    return f"{len(described)} layers, {half} of them with Half results, {attention} with attention in their name"
