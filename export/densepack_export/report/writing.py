"""Puts a report where it belongs: into a file, or into the bundle that it is about."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from densepack_runtime.bundle import REPORT_NAME, Bundle, BundleDraft, edit_bundle
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.question_answering.squad import SquadDataset, read_squad, sample_squad_path

if TYPE_CHECKING:
    from densepack_export.report.facts import ReportFacts

PACKAGES = ("jinja2", "matplotlib", "onnx", "onnx_ir")


def write_report(facts: ReportFacts, path: Path) -> None:
    """Write the page to a file, replacing what is there."""
    from densepack_export.report.page import render

    write_text_atomic(path, render(facts))


def write_into_bundle(bundle: Bundle, facts: ReportFacts) -> Path:
    """Write the page into the bundle, which stays whole: its manifest knows the page. Returns the path."""
    with edit_bundle(bundle) as draft:
        write_report(facts, draft.path(REPORT_NAME))
    return bundle.folder / REPORT_NAME


def refresh_report(
    draft: BundleDraft, name: str, tell: Callable[[str], None], squad: SquadDataset | None = None
) -> None:
    """Make the page of a bundle that is being written true to it; where that cannot be done here, it has none.

    `squad` is what parity was checked on, for gold answers; those of the sample set are always known.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        draft.path(REPORT_NAME).unlink(missing_ok=True)
        tell(f"no {REPORT_NAME}: {missing[0]} is missing; pip install 'densepack[report]', densepack report {name}")
        return
    from densepack_export.report.facts import ReportFacts, bundle_facts

    datasets = [read_squad(sample_squad_path()) if squad is None else squad]
    write_report(ReportFacts((bundle_facts(draft.as_bundle(), name, datasets),)), draft.path(REPORT_NAME))
    tell(f"{REPORT_NAME}: {draft.path(REPORT_NAME).stat().st_size / 2**10:.0f} KiB")
