"""The ladder as tables."""

from __future__ import annotations

from collections.abc import Callable

from densepack_runtime.host.console import print_table, tell
from densepack_runtime.host.story import ShowTable
from densepack_runtime.parity.report import ParityReport

PARITY_COLUMNS = ("rung", "verdict", "max |Δ|", "99.9 %", "mean |Δ|", "same span", "EM", "F1", "questions", "seconds")


def parity_rows(report: ParityReport) -> list[tuple[str, ...]]:
    """The ladder as text, one row a rung, for `PARITY_COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for rung in report.rungs:
        if rung.status == "not run":
            rows.append((rung.name, rung.note, *("–",) * (len(PARITY_COLUMNS) - 2)))
            continue
        compared, answered = rung.status != "reference", rung.questions > 0
        rows.append(
            (
                rung.name,
                rung.status,
                f"{rung.max_abs_logit:.2e}" if compared else "–",
                f"{rung.p999_abs_logit:.2e}" if compared else "–",
                f"{rung.mean_abs_logit:.2e}" if compared else "–",
                f"{rung.span_agreement:.2f} %" if compared and answered else "–",
                f"{rung.exact_match:.2f}" if answered else "–",
                f"{rung.f1:.2f}" if answered else "–",
                f"{rung.questions}" if answered else "–",
                f"{rung.seconds:.1f}",
            )
        )
    return rows


NO_ANSWER = "(no answer)"
WORST_COLUMNS = ("question", "rung", "reference", "rung's answer", "margin", "|Δ|")


def worst_rows(report: ParityReport) -> list[tuple[str, ...]]:
    """The worst questions that a rung answers otherwise than the reference, as text, for `WORST_COLUMNS`."""
    return [
        (
            _shortened(question.question),
            rung.name,
            _shortened(question.reference_answer) or NO_ANSWER,
            _shortened(question.answer) or NO_ANSWER,
            f"{question.margin:.3g}",
            f"{question.max_abs_logit:.2g}",
        )
        for rung in report.rungs
        for question in rung.worst[: rung.differing_spans]
    ]


def _shortened(text: str, longest: int = 40) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def show_parity(report: ParityReport, show: ShowTable = print_table, tell: Callable[[str], None] = tell) -> None:
    """The ladder as a table, then the worst questions of the rungs that differ, then what failed."""
    show(f"parity on {report.squad_name}, {report.rungs[0].questions} questions", PARITY_COLUMNS, parity_rows(report))
    worst = worst_rows(report)
    if worst:
        show("other answers than the reference's", WORST_COLUMNS, worst)
    for failure in report.failures:
        tell(f"failed: {failure}")
