"""The rungs that a bundle brings along, and the ladder on a host without PyTorch.

run = bundle_run(bundle, dataset, "dev-v1.1.json")
report = climb_from_recording(bundle, run)
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from densepack_runtime.backends import Choice, has_provider, open_choice, open_plan
from densepack_runtime.bundle import REFERENCE_NAME, Bundle, ClosedPrecision
from densepack_runtime.host.here import Host
from densepack_runtime.parity.climb import ParityRun, Rung
from densepack_runtime.parity.corners import check_corners
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.openvino_session import OpenVinoSession, openvino_precisions
from densepack_runtime.sessions.session import GRAPH_OF
from densepack_runtime.tensorrt_plans.choice import misfit
from densepack_runtime.tensorrt_plans.record import PlanEntry

PLAN_NOT_RUN = "built, not run"
OPENVINO = "openvino"


def bundle_run(bundle: Bundle, dataset: SquadDataset, squad_name: str) -> ParityRun:
    """The questions of `dataset` in the windows that the bundle was built for."""
    manifest = bundle.manifest
    windower = Windower(bundle.tokenizer_json, max_length=manifest.max_length, doc_stride=manifest.doc_stride)
    return ParityRun.of(windower, dataset, squad_name)


def open_rungs(bundle: Bundle, opened: ExitStack, threads: int | None = None, host: Host | None = None) -> list[Rung]:
    """Every graph and plan of the bundle as a rung (closed with `opened`); a plan that fits no GPU here does not run.

    Where OpenVINO is installed, it runs the float32 graph in every precision that the processor has and the build did
    not close. On a GPU the float16 graph also runs in ONNX Runtime's CUDA provider.
    """
    host = host or Host.here()
    rungs = []
    for precision in bundle.precisions:
        session = OnnxRuntimeSession(bundle.graph(precision), threads=threads)
        opened.enter_context(closing(session))
        rungs.append(Rung(f"ONNX {precision.upper()}", session, precision))
    rungs += _openvino_rungs(bundle, opened, threads)
    if host.gpu is not None and has_provider("CUDAExecutionProvider") and "fp16" in bundle.precisions:
        on_gpu = open_choice(bundle, Choice("onnxruntime-cuda", "fp16", "parity"))
        rungs.append(Rung("ONNX FP16, CUDA", opened.enter_context(closing(on_gpu)), "fp16"))
    return [*rungs, *(_plan_rung(bundle, entry, opened, host) for entry in bundle.manifest.engines)]


def _openvino_rungs(bundle: Bundle, opened: ExitStack, threads: int | None) -> list[Rung]:
    rungs = []
    for precision in openvino_precisions():
        name, reason = f"OpenVINO {precision.upper()}", bundle.manifest.why_closed(OPENVINO, precision)
        if reason is not None:
            rungs.append(Rung(name, None, precision, f"closed by the build: {reason}"))
            continue
        session = OpenVinoSession(bundle.graph(GRAPH_OF[precision]), precision=precision, threads=threads)
        opened.enter_context(closing(session))
        rungs.append(Rung(name, session, precision))
    return rungs


def closed_precisions(report: ParityReport) -> tuple[ClosedPrecision, ...]:
    """What the ladder of a build closed, for the manifest. Only OpenVINO computes in such precisions."""
    return tuple(
        ClosedPrecision(OPENVINO, rung.precision, "; ".join(rung.failures))
        for rung in report.rungs
        if rung.status == "closed"
    )


def _plan_rung(bundle: Bundle, entry: PlanEntry, opened: ExitStack, host: Host) -> Rung:
    name = f"plan {Path(entry.plan).stem}"
    if misfit(entry, host) is not None:
        return Rung(name, None, entry.precision, PLAN_NOT_RUN)
    session = opened.enter_context(closing(open_plan(bundle, entry)))
    return Rung(name, session, entry.precision, f"{entry.flavour} {entry.tensorrt_version}")


def climb_from_recording(bundle: Bundle, run: ParityRun, threads: int | None = None) -> ParityReport:
    """Judge the bundle by PyTorch's recorded answers. Raises InputError when the dataset is not the recorded one."""
    recorded = RecordedReference.load(bundle.path(REFERENCE_NAME))
    with ExitStack() as opened:
        report = recorded.compare(run, open_rungs(bundle, opened, threads))
    return with_corners(bundle, run, report)


def with_corners(bundle: Bundle, run: ParityRun, report: ParityReport) -> ParityReport:
    """The report with a rung more for every plan that runs here: its profiles at their smallest, best and largest."""
    host = Host.here()
    fitting = [entry for entry in bundle.manifest.engines if misfit(entry, host) is None]
    for entry in fitting:
        report = report.with_rung(check_corners(bundle, entry, run.windows, run.pad_id))
    return report
