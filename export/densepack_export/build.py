"""The whole way from a checkpoint to a checked bundle: pack, export, range gate, INT8, plan, parity, report.

    result = build_bundle("checkpoint/", Path("bundle/"), BuildOptions(squad=read_squad(path)))
    result.bundle.folder, result.parity.passed

Every step works in one temporary folder; the bundle appears when all gates have passed, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from densepack_export.graphs.int8_error import LIMIT, WINDOWS, measure_int8_ranges
from densepack_export.graphs.onnx_export import OnnxExport, export_onnx
from densepack_export.plans.into_bundle import PlanRequest, build_into
from densepack_export.proofs.range_gate import measure_fp16_ranges
from densepack_export.proofs.verify import climb_from_checkpoint
from densepack_export.report.writing import refresh_report
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint, refuse_longer_windows
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack_with_report
from densepack_models.packing_report import PackReport
from densepack_runtime.bundle import (
    ONNX_NAMES,
    REFERENCE_NAME,
    Bundle,
    BundleDraft,
    Manifest,
    ModelEntry,
    ParityEntry,
    TensorEntry,
    write_bundle,
)
from densepack_runtime.errors import ParityError
from densepack_runtime.host.here import Host
from densepack_runtime.host.story import Story
from densepack_runtime.host.versions import package_versions
from densepack_runtime.parity.climb import ParityRun
from densepack_runtime.parity.ladder import closed_precisions
from densepack_runtime.parity.recorded_reference import ReferenceRecorder, stratified_windows
from densepack_runtime.parity.report import ParityReport, enter_report
from densepack_runtime.parity.tables import show_parity
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fp16_range import RangeReport
from densepack_runtime.sessions.int8_ranges import INT8_RANGES_NAME
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import OUTPUT_NAMES, Batch, Precision, graph_inputs
from densepack_runtime.tensorrt_plans.choice import misfit
from densepack_runtime.tensorrt_plans.record import NOT_RUN, PlanEntry

RANGE_GATE_WINDOWS = 500


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What `densepack build` can be told. `engine` None means: where a TensorRT is installed."""

    squad: SquadDataset
    squad_name: str = "sample"
    max_length: int = 384
    doc_stride: int = 128
    pad_to: int = 1
    parity: bool = True
    engine: bool | None = None
    plan_request: PlanRequest = field(default_factory=PlanRequest)
    revision: str | None = None
    overwrite: bool = False
    session: SessionOptions = DEFAULT


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built, with the report of every step."""

    bundle: Bundle
    packing: PackReport
    exports: tuple[OnnxExport, ...]
    ranges: RangeReport
    engine: PlanEntry | None
    parity: ParityReport | None


def build_bundle(source: str | Path, folder: Path, options: BuildOptions, story: Story) -> BuildResult:
    """Build, check and write a bundle. Raises DensepackError of the step that failed; then no bundle is left."""
    checkpoint = load_checkpoint(source, revision=options.revision)
    for note in checkpoint.notes:
        story.tell(f"note: {note}")
    refuse_longer_windows(checkpoint, options.max_length)
    packed, packing = pack_with_report(checkpoint, pad_to=options.pad_to)
    story.tell(f"packed: {packing.parameters_stored:,} to {packing.parameters:,} parameters")
    windower = Windower(checkpoint.tokenizer_json, max_length=options.max_length, doc_stride=options.doc_stride)
    run = ParityRun.of(windower, options.squad, options.squad_name)
    with write_bundle(folder, _manifest(checkpoint, packed, packing, options), overwrite=options.overwrite) as draft:
        draft.path("tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
        exports = tuple(_export(packed, draft, precision, story) for precision in ONNX_NAMES)
        ranges = _check_ranges(packed, draft, run, story)
        _measure_int8(packed, draft, run, story)
        engine = _build_plan(draft, options, Host.here(), story)
        parity = _check_parity(checkpoint, packed, draft, run, options.session, story) if options.parity else None
        refresh_report(draft, folder.name, story.tell, options.squad)
    bundle = Bundle(folder, draft.manifest)
    return BuildResult(bundle, packing, exports, ranges, engine, parity)


def _manifest(
    checkpoint: Checkpoint, packed: PackedBertForQuestionAnswering, packing: PackReport, options: BuildOptions
) -> Manifest:
    return Manifest(
        model=ModelEntry(
            name=checkpoint.source,
            sha256=checkpoint.sha256,
            parameters_stored=packing.parameters_stored,
            structure=packed.structure,
        ),
        inputs=tuple(
            TensorEntry(name, "int64", ("batch", "sequence")) for name in graph_inputs(packed.structure.token_types)
        ),
        outputs=tuple(TensorEntry(name, "float32", ("batch", "sequence")) for name in OUTPUT_NAMES),
        max_length=options.max_length,
        doc_stride=options.doc_stride,
        versions=package_versions(),
        parity=ParityEntry(checked=False, summary="not checked (--no-parity)"),
    )


def _export(
    packed: PackedBertForQuestionAnswering, draft: BundleDraft, precision: Precision, story: Story
) -> OnnxExport:
    report = export_onnx(packed, draft.path(ONNX_NAMES[precision]), precision=precision)
    size = f"{report.bytes / 2**20:.1f} MiB"
    story.tell(f"{ONNX_NAMES[precision]}: {size}, max |Δlogit| against PyTorch {report.max_abs_logit:.2g}")
    return report


def _check_ranges(
    packed: PackedBertForQuestionAnswering, draft: BundleDraft, run: ParityRun, story: Story
) -> RangeReport:
    chosen = stratified_windows(run.windows, RANGE_GATE_WINDOWS)
    with story.bar("FP16 range gate", len(chosen)) as advance:
        batches = _told(run.batches(chosen), advance)
        ranges = measure_fp16_ranges(packed, batches, onnx_path=draft.path(ONNX_NAMES["fp16"]))
    draft.manifest = replace(draft.manifest, fp16_range=ranges)
    ranges.check()
    story.tell(
        f"FP16 range: largest magnitude {ranges.worst_magnitude:.4g} ({ranges.worst_name}) on {len(chosen)} windows"
    )
    return ranges


def _measure_int8(packed: PackedBertForQuestionAnswering, draft: BundleDraft, run: ParityRun, story: Story) -> None:
    chosen = stratified_windows(run.windows, WINDOWS)
    with story.bar("INT8 ranges", len(chosen)) as advance:
        ranges = measure_int8_ranges(packed, _told(run.batches(chosen), advance))
    ranges.save(draft.path(INT8_RANGES_NAME))
    story.tell(f"INT8 with fixed scales: {len(ranges)} products err by {LIMIT:.1%} at most on {len(chosen)} windows")


def _told(batches: Iterator[Batch], advance: Callable[..., None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(len(batch.windows))


def _build_plan(draft: BundleDraft, options: BuildOptions, host: Host, story: Story) -> PlanEntry | None:
    available = bool(host.tensorrt)
    if options.engine is False or (options.engine is None and not available):
        story.tell("no TensorRT plan: " + ("--no-engine" if available else "no TensorRT is installed"))
        return None
    entry = build_into(draft, options.plan_request, story)
    reason = misfit(entry, host)
    if options.parity:
        entry = replace(entry, verdict="part of the parity ladder" if reason is None else NOT_RUN)
    draft.manifest = replace(draft.manifest, engines=(entry,))
    return entry


def _check_parity(
    checkpoint: Checkpoint,
    packed: PackedBertForQuestionAnswering,
    draft: BundleDraft,
    run: ParityRun,
    session: SessionOptions,
    story: Story,
) -> ParityReport:
    recorder = ReferenceRecorder(run.windows, run.dataset)
    bundle = draft.as_bundle()
    with story.bar("parity", len(run.windows)) as advance:
        run = replace(run, on_windows=advance)
        report = climb_from_checkpoint(bundle, run, checkpoint, packed, options=session, on_reference=recorder)
    report = report.with_optional_closed()
    show_parity(report, story.show, story.tell)
    if not report.passed:
        raise ParityError(f"parity failed, no bundle was written: {'; '.join(report.failures)}")
    recorder.save(draft.path(REFERENCE_NAME))
    enter_report(draft, report)
    closed = closed_precisions(report)
    for entry in closed:
        story.tell(f"closed: {entry.precision} on {entry.backend}, the rest of the bundle stands ({entry.reason})")
    draft.manifest = replace(draft.manifest, closed=closed)
    return report
