"""Changes of a bundle that is there: a plan more, another verdict; its page follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from densepack_export.plans.into_bundle import PlanRequest, build_into, with_plan
from densepack_export.report.writing import refresh_report
from densepack_runtime.bundle import (
    ONNX_NAMES,
    REFERENCE_NAME,
    Bundle,
    BundleDraft,
    edit_bundle,
)
from densepack_runtime.errors import BundleError, ParityError
from densepack_runtime.host.console import tell
from densepack_runtime.host.here import Host
from densepack_runtime.host.story import Story
from densepack_runtime.parity.corners import check_plan
from densepack_runtime.parity.report import ParityReport, enter_report
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.tensorrt_plans.choice import misfit
from densepack_runtime.tensorrt_plans.record import NOT_RUN, PlanEntry


def store_verdict(bundle: Bundle, report: ParityReport, dataset: SquadDataset) -> None:
    """Store a report and its verdict in a bundle; its page follows."""
    with edit_bundle(bundle) as draft:
        enter_report(draft, report)
        refresh_report(draft, bundle.folder.resolve().name, tell, dataset)
    tell(f"stored the verdict in {bundle.folder}")


def add_plan(bundle: Bundle, request: PlanRequest, story: Story) -> PlanEntry:
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
        draft.manifest = replace(draft.manifest, engines=with_plan(draft.manifest.engines, entry))
        refresh_report(draft, bundle.folder.resolve().name, story.tell)
    return entry


def _checked(draft: BundleDraft, entry: PlanEntry, story: Story) -> PlanEntry:
    """The entry with the verdict on the saved plan. Raises ParityError when it runs here and is wrong."""
    reason = misfit(entry, Host.here())
    if reason is not None:
        story.tell(f"{NOT_RUN}: {reason}")
        return replace(entry, verdict=NOT_RUN)
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
