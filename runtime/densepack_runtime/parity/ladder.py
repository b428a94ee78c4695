"""The rungs that a bundle brings along, and the ladder on a host without PyTorch.

run = bundle_run(bundle, dataset, "dev-v1.1.json")
report = climb_from_recording(bundle, run)
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from densepack_runtime.backends import BACKENDS, Backend, Runnable, open_plan
from densepack_runtime.bundle import REFERENCE_NAME, Bundle, ClosedPrecision
from densepack_runtime.host.here import Host
from densepack_runtime.parity.climb import ParityRun, Rung
from densepack_runtime.parity.corners import check_corners
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import GRAPH_OF, ComputePrecision
from densepack_runtime.tensorrt_plans.choice import misfit
from densepack_runtime.tensorrt_plans.record import NOT_RUN, PlanEntry


def bundle_run(bundle: Bundle, dataset: SquadDataset, squad_name: str) -> ParityRun:
    """The questions of `dataset` in the windows that the bundle was built for."""
    manifest = bundle.manifest
    windower = Windower(bundle.tokenizer_json, max_length=manifest.max_length, doc_stride=manifest.doc_stride)
    return ParityRun.of(windower, dataset, squad_name)


def open_rungs(
    bundle: Bundle, opened: ExitStack, options: SessionOptions = DEFAULT, host: Host | None = None
) -> list[Rung]:
    """Every graph and plan of the bundle as a rung (closed with `opened`); a plan that fits no GPU here does not run.

    A graph is run by every registered backend that is here, in every precision that it has for the ladder and that the
    build did not close.
    """
    host = host or Host.here()
    rungs = [
        _graph_rung(bundle, backend, precision, opened, options)
        for backend in BACKENDS.values()
        if not backend.runs_plans
        for precision in backend.rungs_on(host)
        if GRAPH_OF[precision] in bundle.precisions
    ]
    return [*rungs, *(_plan_rung(bundle, entry, opened, host, options) for entry in bundle.manifest.engines)]


def _graph_rung(
    bundle: Bundle, backend: Backend, precision: ComputePrecision, opened: ExitStack, options: SessionOptions
) -> Rung:
    """Nothing that was compiled earlier is trusted: no cache."""
    name, reason = backend.rung_name(precision), bundle.manifest.why_closed(backend.name, precision)
    if reason is not None:
        return Rung(name, None, precision, f"closed by the build: {reason}")
    model = Runnable(bundle.graph(GRAPH_OF[precision]), precision, bundle=bundle.folder)
    told = replace(options, cache=None, max_length=bundle.manifest.max_length)
    return Rung(name, opened.enter_context(backend.open(model, told)), precision)


def closed_precisions(report: ParityReport) -> tuple[ClosedPrecision, ...]:
    """What the ladder of a build closed, for the manifest."""
    names = {
        backend.rung_name(precision): backend.name for backend in BACKENDS.values() for precision in backend.precisions
    }
    return tuple(
        ClosedPrecision(names[rung.name], rung.precision, "; ".join(rung.failures))
        for rung in report.rungs
        if rung.status == "closed"
    )


def _plan_rung(bundle: Bundle, entry: PlanEntry, opened: ExitStack, host: Host, options: SessionOptions) -> Rung:
    name = f"plan {Path(entry.plan).stem}"
    if misfit(entry, host) is not None:
        return Rung(name, None, entry.precision, NOT_RUN)
    session = opened.enter_context(open_plan(bundle, entry, options))
    return Rung(name, session, entry.precision, f"{entry.flavour} {entry.tensorrt_version}")


def climb_from_recording(bundle: Bundle, run: ParityRun, options: SessionOptions = DEFAULT) -> ParityReport:
    """Judge the bundle by PyTorch's recorded answers. Raises InputError when the dataset is not the recorded one."""
    recorded = RecordedReference.load(bundle.path(REFERENCE_NAME))
    with ExitStack() as opened:
        report = recorded.compare(run, open_rungs(bundle, opened, options))
    return with_corners(bundle, run, report)


def with_corners(bundle: Bundle, run: ParityRun, report: ParityReport) -> ParityReport:
    """The report with a rung more for every plan that runs here: its profiles at their smallest, best and largest."""
    host = Host.here()
    fitting = [entry for entry in bundle.manifest.engines if misfit(entry, host) is None]
    for entry in fitting:
        report = report.with_rung(check_corners(bundle, entry, run.windows, run.pad_id))
    return report
