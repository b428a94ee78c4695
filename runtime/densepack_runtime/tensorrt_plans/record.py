"""What a bundle says about one of its TensorRT plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densepack_runtime.host.flavours import Flavour
from densepack_runtime.sessions.session import Precision
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.tensorrt_plans.precision_proof import PrecisionProof

# The verdict on a plan that fits nothing here.
NOT_RUN = "built, not run"


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One plan of a bundle: what it is, what it was built with and what it needs. Kept in the manifest.

    `compute_capabilities` are those that the plan has kernels for. `gpu` and `driver_cuda` are those of the host that
    built it, empty where a plan does not depend on them. `verdict` says whether the saved plan was run and what came of
    it.
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
    proof: PrecisionProof
    gpu: str = ""
    driver_cuda: str = ""
    version_compatible: bool = False
    warnings: tuple[str, ...] = ()
    verdict: str = ""

    @property
    def derived(self) -> dict[str, Any]:
        proof = self.proof
        return {"products": proof.products, "half_products": proof.half_products, "attention": proof.attention}

    @property
    def max_batch(self) -> int:
        return max(profile.max[0] for profile in self.profiles)

    @property
    def max_length(self) -> int:
        return max(profile.max[1] for profile in self.profiles)
