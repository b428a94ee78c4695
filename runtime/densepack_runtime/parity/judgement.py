"""What a rung may differ by, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TypedDict, Unpack

from densepack_runtime.parity.report import QuestionDifference, RungReport, Status
from densepack_runtime.parity.tally import BestSpans, LogitDifference
from densepack_runtime.question_answering.squad import SquadDataset, score_predictions
from densepack_runtime.sessions.session import ComputePrecision

# Percentages of the same count, computed in two ways, may differ by this: 88 of 89 is not below 100 - 100 / 89.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a rung may differ by. None switches a limit off; agreement in percent, drops in points.

    `explained_spans_only` asks that wherever the best span differs, the reference itself preferred its own by less
    than twice the largest logit difference: a near tie, not another answer.
    """

    max_abs_logit: float | None = None
    min_span_agreement: float | None = None
    max_f1_drop: float | None = None
    max_em_drop: float | None = None
    explained_spans_only: bool = False


# Questions with the same best span in percent, at least; drop of EM and F1 in points, at most. bfloat16 keeps 8 bits of
# a number and INT8 7 where float16 keeps 11: more near ties fall to the other side, and F1 decides.
_ROUNDED = {"fp16": (99.0, 0.2), "bf16": (98.0, 0.2), "int8": (95.0, 0.5)}


def default_tolerance(precision: ComputePrecision, questions: int) -> Tolerance:
    """FP32 rungs are the same function up to rounding; shorter types are judged by answers.

    With few questions one changed answer weighs 100/n points, so such a rung may always change one.
    """
    if precision == "fp32":
        return Tolerance(max_abs_logit=1e-3, explained_spans_only=True)
    agreement, drop = _ROUNDED[precision]
    one = 100 / questions
    drop = max(drop, one)
    return Tolerance(min_span_agreement=min(agreement, 100 - one), max_f1_drop=drop, max_em_drop=drop)


@dataclass(frozen=True, slots=True)
class SpanComparison:
    """What the answers of a rung showed: agreement in percent of the questions, EM, F1 and drops in points.

    A comparison without questions has nothing to show.
    """

    questions: int = 0
    span_agreement: float = 100.0
    differing_spans: int = 0
    unexplained_spans: int = 0
    exact_match: float = 0.0
    f1: float = 0.0
    exact_match_drop: float = 0.0
    f1_drop: float = 0.0


def compare_spans(
    dataset: SquadDataset, spans: BestSpans, wanted: BestSpans, reference: RungReport, near_tie: float
) -> SpanComparison:
    """A rung's answers against the reference's. A margin below `near_tie` explains a difference."""
    differs = (spans.start != wanted.start) | (spans.end != wanted.end)
    margins = wanted.score - spans.reference_score
    score = score_predictions(dataset, spans.texts(dataset))
    return SpanComparison(
        questions=len(dataset.questions),
        span_agreement=100 * float(1 - differs.mean()),
        differing_spans=int(differs.sum()),
        unexplained_spans=int((differs & ~(margins < near_tie)).sum()),
        exact_match=score.exact_match,
        f1=score.f1,
        exact_match_drop=reference.exact_match - score.exact_match,
        f1_drop=reference.f1 - score.f1,
    )


def judge(
    name: str,
    precision: ComputePrecision,
    logits: LogitDifference,
    spans: SpanComparison,
    limits: Tolerance,
    **seen: Unpack[Circumstances],
) -> RungReport:
    """The report of a rung that ran, with its verdict."""
    failures = tuple(_failures(logits, spans, limits))
    status: Status = "failed" if failures else "passed"
    return RungReport(name, precision, status, failures=failures, **asdict(logits), **asdict(spans), **seen)


class Circumstances(TypedDict, total=False):
    """What else a report tells of a rung that ran."""

    note: str
    windows: int
    seconds: float
    worst: tuple[QuestionDifference, ...]


def _failures(logits: LogitDifference, spans: SpanComparison, limits: Tolerance) -> Iterator[str]:
    """One sentence for each limit that is broken. Comparisons are written so that NaN fails."""
    if not math.isfinite(logits.max_abs_logit):
        yield "some logits are not finite"
    if limits.max_abs_logit is not None and not logits.max_abs_logit <= limits.max_abs_logit:
        yield f"largest |Δlogit| {logits.max_abs_logit:.3g} is above {limits.max_abs_logit:g}"
    if limits.explained_spans_only and spans.unexplained_spans:
        yield (
            f"{spans.unexplained_spans} of {spans.differing_spans} differing spans are no near ties (margin at least "
            "twice the largest |Δlogit|)"
        )
    least = limits.min_span_agreement
    if least is not None and not spans.span_agreement >= least - ROUNDING:
        yield f"same best span for {spans.span_agreement:.2f} % of {spans.questions} questions, below {least:g} %"
    drops = (("EM", spans.exact_match_drop, limits.max_em_drop), ("F1", spans.f1_drop, limits.max_f1_drop))
    for name, drop, limit in drops:
        if limit is not None and not drop <= limit + ROUNDING:
            yield f"{name} drops by {drop:.2f} points on {spans.questions} questions, more than {limit:.2f}"
