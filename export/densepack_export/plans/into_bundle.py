"""Plans for a bundle: what to build, where it goes, and the proof of it where it can run.

    entry = add_plan(bundle, PlanRequest(precision="fp16"), Story.silent())

The bundle is replaced whole when the plan is built and checked; before that, and after any error, it is as it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from densepack_export.plans.builder import Attention, BuiltPlan, PlanSettings, build_plan, choose_flavour
from densepack_runtime.bundle import (
    ENGINES_FOLDER,
    ONNX_NAMES,
    TIMING_CACHE_NAME,
    BundleDraft,
)
from densepack_runtime.host.files import new_file
from densepack_runtime.host.flavours import Flavour
from densepack_runtime.host.story import Story
from densepack_runtime.sessions.session import Precision
from densepack_runtime.sessions.shapes import bucket_profiles
from densepack_runtime.tensorrt_plans.record import PlanEntry

DEFAULT_LENGTHS = (64, 128, 256, 384)
DEFAULT_MAX_BATCH = 32


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What `densepack build-engine` can be told; see `PlanSettings` for the meaning of most.

    One profile per entry of `lengths` with batches of 1 to `max_batch`; `latency` adds narrow ones for batch 1.
    """

    flavour: Flavour | Literal["auto"] = "auto"
    precision: Precision = "fp16"
    lengths: tuple[int, ...] = DEFAULT_LENGTHS
    max_batch: int = DEFAULT_MAX_BATCH
    latency: bool = False
    attention: Attention = "fused"
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    allow_fp32: bool = False

    def settings(self) -> PlanSettings:
        """The builder's settings, with the flavour decided."""
        return PlanSettings(
            flavour=choose_flavour(self.flavour),
            precision=self.precision,
            attention=self.attention,
            compute_capabilities=self.compute_capabilities,
            workspace_bytes=None if self.workspace_mib is None else self.workspace_mib * 2**20,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            allow_fp32=self.allow_fp32,
        )


def build_into(draft: BundleDraft, request: PlanRequest, story: Story) -> PlanEntry:
    """Build a plan into a bundle that is being written, and enter it into its manifest, unchecked."""
    settings = request.settings()
    draft.path(ENGINES_FOLDER).mkdir(exist_ok=True)
    profiles = bucket_profiles(
        request.lengths, request.max_batch, max_length=draft.manifest.max_length, latency=request.latency
    )
    cache, unnamed = draft.path(TIMING_CACHE_NAME), draft.path(f"{ENGINES_FOLDER}/plan")
    with story.bar(f"TensorRT ({settings.flavour})", None) as advance:
        built = build_plan(
            draft.path(ONNX_NAMES[settings.precision]),
            unnamed,
            settings,
            profiles,
            timing_cache=cache.read_bytes() if cache.is_file() else None,
            on_progress=lambda phase, done, total: advance(1, description=f"{phase} {done}/{total}"),
        )
    if built.timing_cache is not None:
        with new_file(cache) as temporary:
            temporary.write_bytes(built.timing_cache)
    name = f"{ENGINES_FOLDER}/{plan_name(settings, built.entry.gpu)}"
    unnamed.replace(draft.path(name))
    entry = replace(built.entry, plan=name, verdict="not checked")
    draft.manifest = replace(draft.manifest, engines=with_plan(draft.manifest.engines, entry))
    _tell(built, name, story)
    return entry


def plan_name(settings: PlanSettings, gpu: str) -> str:
    """File name of a plan; one bundle can hold plans of both flavours, precisions, several GPUs and sets of them.

    `gpu` is the model that a plan was built on and runs on alone; empty where it was built for compute capabilities.
    """
    capabilities = [f"sm{capability.replace('.', '')}" for capability in settings.compute_capabilities]
    model = re.findall(r"[a-z0-9]+", gpu.lower())
    return "-".join([settings.flavour, *(capabilities or model), settings.precision]) + ".plan"


def with_plan(entries: tuple[PlanEntry, ...], entry: PlanEntry) -> tuple[PlanEntry, ...]:
    return (*(other for other in entries if other.plan != entry.plan), entry)


def _tell(built: BuiltPlan, name: str, story: Story) -> None:
    entry, proof = built.entry, built.entry.proof
    story.tell(
        f"{name}: {entry.bytes / 2**20:.1f} MiB in {entry.seconds:.1f} s, {proof.half_products} of {proof.products} "
        f"matrix products in float16, attention: {proof.attention}"
    )
    for warning in entry.warnings:
        story.tell(f"TensorRT warns: {warning}")


def plan_rows(entry: PlanEntry) -> list[tuple[str, str]]:
    """A plan's record for a person: (what, value)."""
    gpus = entry.gpu or ", ".join(entry.compute_capabilities)
    rows = [
        ("TensorRT", f"{entry.flavour} {entry.tensorrt_version}"),
        ("for", f"{gpus} (compute capability {', '.join(entry.compute_capabilities)})" if entry.gpu else gpus),
        ("precision", entry.precision),
        ("size", f"{entry.bytes / 2**20:.1f} MiB"),
        ("time", f"{entry.seconds:.1f} s"),
        ("flags", ", ".join(entry.flags) or "none"),
    ]
    rows += [(f"profile {index} (min / opt / max)", str(profile)) for index, profile in enumerate(entry.profiles)]
    rows += entry.proof.rows()
    rows.append(("verdict", entry.verdict))
    return rows
