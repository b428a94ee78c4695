"""A plan's record for tests that need one and build nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.tensorrt_plans.precision_proof import PrecisionProof
from densepack_runtime.tensorrt_plans.record import PlanEntry

_ENTRY = PlanEntry(
    plan="engines/a.plan",
    flavour="tensorrt",
    tensorrt_version="11.4.0.106",
    precision="fp16",
    compute_capabilities=("9.0",),
    profiles=(Profile((1, 1), (8, 64), (8, 64)), Profile((1, 65), (8, 128), (8, 128))),
    flags=("TF32",),
    plan_sha256="ab" * 32,
    onnx_sha256="cd" * 32,
    bytes=4,
    seconds=1.5,
    gpu="NVIDIA H100",
    driver_cuda="13.0",
    proof=PrecisionProof(products=43, other=(), float32={"CAST": 2}, attention="6 fused"),
    verdict="built, not run",
)


def plan_entry(**changes: Any) -> PlanEntry:
    """A plan for an H100, with some fields changed."""
    return replace(_ENTRY, **changes)
