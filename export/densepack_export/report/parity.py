"""The ladder of a bundle in words: a row a rung with its limits and verdict, and the worst questions side by side."""

from __future__ import annotations

from dataclasses import dataclass

from densepack_export.report.facts import Gold
from densepack_export.report.tables import Cell, Row, Table
from densepack_runtime.parity.judgement import default_tolerance
from densepack_runtime.parity.report import ParityReport, RungReport
from densepack_runtime.sessions.session import OPTIONAL_PRECISIONS

_COLUMNS = (
    "rung",
    "verdict",
    "limits",
    "max |Δ|",
    "99.9 %",
    "mean |Δ|",
    "same span",
    "EM",
    "Δ",
    "F1",
    "Δ",
    "questions",
    "seconds",
)
_KINDS = {"passed": "good", "failed": "bad", "closed": "open"}
_QUESTION_COLUMNS = ("question", "gold answer", "reference", "this rung", "margin", "max |Δ|")


@dataclass(frozen=True, slots=True)
class Chip:
    """A short verdict; `kind` is good, bad, open (nothing is known) or plain."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst questions of a rung. `differs` when some of them are answered otherwise than by the reference."""

    rung: str
    summary: str
    differs: bool
    table: Table


def verdicts(parity: ParityReport | None) -> list[Chip]:
    """The outcome at a glance; plans that did not run are never hidden behind rungs that did."""
    if parity is None:
        return [Chip("parity not checked", "open")]
    compared = [rung for rung in parity.rungs if rung.status in ("passed", "failed")]
    within = sum(rung.status == "passed" for rung in compared)
    chips = [Chip(f"parity: {within} of {len(compared)} rungs within limits", "good" if parity.passed else "bad")]
    waiting = sum(rung.status == "not run" and rung.precision not in OPTIONAL_PRECISIONS for rung in parity.rungs)
    closed = [
        rung for rung in parity.rungs if rung.status in ("closed", "not run") and rung.precision in OPTIONAL_PRECISIONS
    ]
    chips += [Chip(f"{rung.name} closed", "open") for rung in closed]
    return [*chips, Chip(f"{waiting} built, not run", "open")] if waiting else chips


def ladder(parity: ParityReport) -> Table:
    """A row a rung; drops are against the reference on the same questions."""
    caption = f"All rungs against {parity.rungs[0].name} on {parity.squad_name}"
    return Table.of(caption, _COLUMNS, [_rung_row(rung) for rung in parity.rungs], words=(1, 2))


def _rung_row(rung: RungReport) -> Row:
    name = Cell(rung.name, note=rung.note)
    if rung.status == "not run":
        return (Cell(rung.name), Cell(rung.note, kind="open"), *("",) * (len(_COLUMNS) - 2))
    scores = (f"{rung.exact_match:.2f}", f"{rung.f1:.2f}") if rung.questions else ("", "")
    asked = f"{rung.questions:,}" if rung.questions else ""
    seconds = f"{rung.seconds:.1f}" if rung.seconds else ""
    if rung.status == "reference":
        return (name, Cell("reference", kind="plain"), *("",) * 5, scores[0], "", scores[1], "", asked, seconds)
    drops = (_change(rung.exact_match_drop), _change(rung.f1_drop)) if rung.questions else ("", "")
    return (
        name,
        Cell(rung.status, kind=_KINDS[rung.status]),
        limits(rung),
        f"{rung.max_abs_logit:.1e}",
        f"{rung.p999_abs_logit:.1e}",
        f"{rung.mean_abs_logit:.1e}",
        f"{rung.span_agreement:.2f} %" if rung.questions else "",
        scores[0],
        drops[0],
        scores[1],
        drops[1],
        asked,
        seconds,
    )


def _change(drop: float) -> str:
    return "0" if drop == 0 else f"{-drop:+.2f}".replace("-", "−")


def limits(rung: RungReport) -> str:
    """What the rung was allowed, in words; nothing for one that answers no questions (its note says what it did)."""
    if not rung.questions:
        return ""
    allowed = default_tolerance(rung.precision, rung.questions)
    if allowed.max_abs_logit is not None:
        return f"|Δ| ≤ {allowed.max_abs_logit:g}, other spans on near ties only"
    same, drop = f"{allowed.min_span_agreement:.4g} %", f"{allowed.max_f1_drop:.2f}"
    return f"same span ≥\N{NO-BREAK SPACE}{same}, drop ≤\N{NO-BREAK SPACE}{drop}"


def worst_questions(parity: ParityReport, gold: Gold) -> list[Worst]:
    """The rungs that recorded questions, those that answer otherwise first."""
    found = [_worst(rung, gold) for rung in parity.rungs if rung.worst]
    return sorted(found, key=lambda worst: not worst.differs)


def _worst(rung: RungReport, gold: Gold) -> Worst:
    if rung.differing_spans:
        summary = f"answers {rung.differing_spans} of {rung.questions:,} questions otherwise"
    else:
        summary = f"gives the reference's answer to all {rung.questions:,} questions"
    rows: list[Row] = [
        (
            question.question,
            " / ".join(dict.fromkeys(gold.get(question.id, ()))),
            question.reference_answer or Cell("no answer", kind="faint"),
            Cell(question.answer or "no answer", kind="differs" if place < rung.differing_spans else "faint"),
            f"{question.margin:.3g}",
            f"{question.max_abs_logit:.2g}",
        )
        for place, question in enumerate(rung.worst)
    ]
    known = [0, 1, 2, 3, 4, 5] if any(question.id in gold for question in rung.worst) else [0, 2, 3, 4, 5]
    columns = [_QUESTION_COLUMNS[place] for place in known]
    table = Table.of(
        f"Worst questions of {rung.name}",
        columns,
        [tuple(row[place] for place in known) for row in rows],
        words=range(len(columns) - 2),
    )
    return Worst(rung.name, summary, bool(rung.differing_spans), table)
