"""What a bundle says about one of its TensorRT plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from densepack_runtime.host.flavours import Flavour
from densepack_runtime.sessions.session import Precision
from densepack_runtime.sessions.shapes import Profile

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One plan of a bundle: what it is, what it was built with and what it needs. Kept in the manifest.

    `compute_capabilities` are those that the plan has kernels for. `gpu` and `driver_cuda` are those of the host that
    built it, empty where a plan does not depend on them. `half_products` of `products` matrix products compute in
    float16; `proof` says what stayed in float32 and whether attention is fused. `verdict` says whether the saved plan
    was run and what came of it.
    """

    plan: str
    flavour: Flavour
    tensorrt_version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    flags: tuple[str, ...]
    plan_sha256: str
    onnx_sha256: str
    bytes: int
    seconds: float
    products: int
    half_products: int
    attention: str
    gpu: str = ""
    driver_cuda: str = ""
    version_compatible: bool = False
    proof: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verdict: str = ""

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> PlanEntry:
        """The entry as the manifest holds it."""
        profiles = tuple(
            Profile(*(tuple(profile[name]) for name in ("min", "opt", "max"))) for profile in record["profiles"]
        )
        lists = {name: tuple(record[name]) for name in ("compute_capabilities", "flags", "warnings")}
        return cls(**{**record, **lists, "profiles": profiles})

    @property
    def max_batch(self) -> int:
        return max(profile.max[0] for profile in self.profiles)

    @property
    def max_length(self) -> int:
        return max(profile.max[1] for profile in self.profiles)
