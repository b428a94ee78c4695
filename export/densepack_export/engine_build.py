"""Plans for a bundle: what to build, where it goes, and the proof of it where it can run.

    entry = add_engine(bundle, EngineRequest(precision="fp16"), Story.silent())

The bundle is replaced whole when the plan is built and checked; before that, and after any error, it is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from densepack_export.engine import Attention, BuiltEngine, EngineSettings, build_engine, choose_flavour
from densepack_export.engine_audit import PrecisionProof
from densepack_export.report.writing import refresh_report
from densepack_export.story import Story
from densepack_runtime.bundle import (
    ENGINES_FOLDER,
    ONNX_NAMES,
    REFERENCE_NAME,
    TIMING_CACHE_NAME,
    Bundle,
    BundleDraft,
    edit_bundle,
)
from densepack_runtime.engines import EngineEntry, Flavour, Host, bucket_profiles, misfit
from densepack_runtime.errors import BundleError, ParityError
from densepack_runtime.files import new_file
from densepack_runtime.plan_check import check_plan
from densepack_runtime.session import Precision

DEFAULT_LENGTHS = (64, 128, 256, 384)
DEFAULT_MAX_BATCH = 32


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What `densepack build-engine` can be told; see `EngineSettings` for the meaning of most.

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

    def settings(self) -> EngineSettings:
        """The builder's settings, with the flavour decided."""
        return EngineSettings(
            flavour=choose_flavour(self.flavour),
            precision=self.precision,
            attention=self.attention,
            compute_capabilities=self.compute_capabilities,
            workspace_bytes=None if self.workspace_mib is None else self.workspace_mib * 2**20,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            allow_fp32=self.allow_fp32,
        )


def add_engine(bundle: Bundle, request: EngineRequest, story: Story) -> EngineEntry:
    """Build a plan into a bundle, in the place of one for the same GPUs and precision, and check it if it runs here.

    Raises DensepackError of the step that failed; the bundle is then as it was.
    """
    if ONNX_NAMES[request.precision] not in bundle.manifest.files:
        raise BundleError(
            f"the bundle {bundle.folder} has no {request.precision} graph, only {', '.join(bundle.precisions)}"
        )
    with edit_bundle(bundle) as draft:
        entry = build_into(draft, request, story)
        entry = _checked(draft, entry, story)
        draft.manifest = replace(draft.manifest, engines=_with(draft.manifest.engines, entry))
        refresh_report(draft, bundle.folder.resolve().name, story.tell)
    return entry


def build_into(draft: BundleDraft, request: EngineRequest, story: Story) -> EngineEntry:
    """Build a plan into a bundle that is being written, and enter it into its manifest, unchecked."""
    settings = request.settings()
    name = f"{ENGINES_FOLDER}/{plan_name(settings)}"
    draft.path(ENGINES_FOLDER).mkdir(exist_ok=True)
    profiles = bucket_profiles(
        request.lengths, request.max_batch, max_length=draft.manifest.max_length, latency=request.latency
    )
    cache = draft.path(TIMING_CACHE_NAME)
    with story.bar(f"TensorRT ({settings.flavour})", None) as advance:
        built = build_engine(
            draft.path(ONNX_NAMES[settings.precision]),
            draft.path(name),
            settings,
            profiles,
            timing_cache=cache.read_bytes() if cache.is_file() else None,
            on_progress=lambda phase, done, total: advance(1, description=f"{phase} {done}/{total}"),
        )
    if built.timing_cache is not None:
        with new_file(cache) as temporary:
            temporary.write_bytes(built.timing_cache)
    entry = replace(built.entry, plan=name, verdict="not checked")
    draft.manifest = replace(draft.manifest, engines=_with(draft.manifest.engines, entry))
    _tell(built, name, story)
    return entry


def plan_name(settings: EngineSettings) -> str:
    """File name of a plan; one bundle can hold plans of both flavours, precisions and several sets of GPUs."""
    capabilities = [f"sm{capability.replace('.', '')}" for capability in settings.compute_capabilities]
    return "-".join([settings.flavour, *capabilities, settings.precision]) + ".plan"


def _with(entries: tuple[EngineEntry, ...], entry: EngineEntry) -> tuple[EngineEntry, ...]:
    return (*(other for other in entries if other.plan != entry.plan), entry)


def _checked(draft: BundleDraft, entry: EngineEntry, story: Story) -> EngineEntry:
    """The entry with the verdict on the saved plan. Raises ParityError when it runs here and is wrong."""
    reason = misfit(entry, Host.here())
    if reason is not None:
        story.tell(f"built, not run: {reason}")
        return replace(entry, verdict="built, not run")
    if REFERENCE_NAME not in draft.as_bundle().manifest.files:
        story.tell("not checked: the bundle was built with --no-parity and has nothing to compare with")
        return entry
    rungs = check_plan(draft.as_bundle(), entry)
    failures = [f"{rung.name}: {failure}" for rung in rungs for failure in rung.failures]
    if failures:
        raise ParityError(f"the plan is wrong, the bundle was left as it was: {'; '.join(failures)}")
    windows = rungs[0]
    verdict = f"same best span in {windows.span_agreement:.2f} % of {windows.windows} recorded windows"
    story.tell(f"{Path(entry.plan).name}: {verdict}, largest |Δlogit| {windows.max_abs_logit:.2g}")
    return replace(entry, verdict=verdict)


def _tell(built: BuiltEngine, name: str, story: Story) -> None:
    entry = built.entry
    story.tell(
        f"{name}: {entry.bytes / 2**20:.1f} MiB in {entry.seconds:.1f} s, {entry.half_products} of {entry.products} "
        f"matrix products in float16, attention: {entry.attention}"
    )
    for warning in entry.warnings:
        story.tell(f"TensorRT warns: {warning}")


def engine_rows(entry: EngineEntry) -> list[tuple[str, str]]:
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
    rows += PrecisionProof.from_dict(entry.proof).rows()
    rows.append(("verdict", entry.verdict))
    return rows
