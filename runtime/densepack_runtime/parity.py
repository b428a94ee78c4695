"""The ladder: does every step from the original module to the engine still answer like the original?

Rung 0 is the reference; every other rung is a Session that runs on the same real, padded SQuAD windows and is compared
with it: logits at unpadded positions, the best span of every question, EM and F1. A rung outside its tolerance closes
the gate.

    run = ParityRun.of(windower, read_squad("dev-v1.1.json"), "dev-v1.1.json")
    report = climb(run, [Rung("transformers", reference, "fp32"), Rung("ONNX FP16", session, "fp16")])
    report.passed, report.failures
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from densepack_runtime.batching import FEW_LENGTHS, length_sorted_batches
from densepack_runtime.bundle import ParityEntry
from densepack_runtime.errors import InputError
from densepack_runtime.parity_tally import BestSpans, LogitDifference, LogitTally, SpanTally
from densepack_runtime.session import OPTIONAL_PRECISIONS, Batch, ComputePrecision, Logits, Session
from densepack_runtime.squad import SquadDataset, score_predictions
from densepack_runtime.windows import Window, Windower

PARITY_KIND = "densepack parity"
PARITY_SCHEMA = 1
WORST_QUESTIONS = 5

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
class Rung:
    """One step of the ladder. Without a session it is reported with `note` (built, not run) and never as passed."""

    name: str
    session: Session | None
    precision: ComputePrecision = "fp32"
    note: str = ""


@dataclass(frozen=True, slots=True)
class QuestionDifference:
    """One question on which a rung is far from the reference."""

    id: str
    question: str
    reference_answer: str
    answer: str
    max_abs_logit: float
    margin: float


@dataclass(frozen=True, slots=True)
class RungReport:
    """What a rung showed. Agreement in percent of the questions, EM, F1 and drops in points."""

    name: str
    precision: ComputePrecision
    status: Literal["reference", "passed", "failed", "closed", "not run"]
    note: str = ""
    questions: int = 0
    windows: int = 0
    max_abs_logit: float = 0.0
    mean_abs_logit: float = 0.0
    p999_abs_logit: float = 0.0
    span_agreement: float = 100.0
    differing_spans: int = 0
    unexplained_spans: int = 0
    exact_match: float = 0.0
    f1: float = 0.0
    exact_match_drop: float = 0.0
    f1_drop: float = 0.0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    worst: tuple[QuestionDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The whole ladder on one SQuAD file."""

    squad_name: str
    squad_sha256: str
    rungs: tuple[RungReport, ...]

    @property
    def failures(self) -> list[str]:
        """One sentence for each limit that a rung broke, those of closed rungs aside."""
        failed = (rung for rung in self.rungs if rung.status != "closed")
        return [f"{rung.name}: {failure}" for rung in failed for failure in rung.failures]

    @property
    def passed(self) -> bool:
        """True when no rung failed and at least one was compared."""
        return not self.failures and any(rung.status == "passed" for rung in self.rungs)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": PARITY_KIND, "schema": PARITY_SCHEMA, "passed": self.passed, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ParityReport:
        """Read what `as_dict` wrote. Raises InputError when it was written by something else."""
        kind, schema = record.get("kind"), record.get("schema")
        if (kind, schema) != (PARITY_KIND, PARITY_SCHEMA):
            raise InputError(
                f"a parity report of kind {kind!r} and schema {schema!r} cannot be read: check parity again"
            )
        try:
            rungs = tuple(
                RungReport(
                    **{
                        **rung,
                        "failures": tuple(rung["failures"]),
                        "worst": tuple(QuestionDifference(**question) for question in rung["worst"]),
                    }
                )
                for rung in record["rungs"]
            )
            return cls(record["squad_name"], record["squad_sha256"], rungs)
        except (KeyError, TypeError) as error:
            raise InputError(f"the parity report cannot be read ({error!r}): check parity again") from error

    def with_rung(self, rung: RungReport) -> ParityReport:
        """This ladder with one rung more."""
        return replace(self, rungs=(*self.rungs, rung))

    def with_optional_closed(self) -> ParityReport:
        """This ladder where a failed rung of a precision that a bundle can do without closes nothing but itself."""
        closes = {
            rung.name: replace(rung, status="closed")
            for rung in self.rungs
            if rung.status == "failed" and rung.precision in OPTIONAL_PRECISIONS
        }
        return replace(self, rungs=tuple(closes.get(rung.name, rung) for rung in self.rungs))

    def joined(self, other: ParityReport) -> ParityReport:
        """This ladder with the compared rungs of another one (run on a part of the windows, say) behind its own."""
        extra = tuple(rung for rung in other.rungs if rung.status != "reference")
        return replace(self, rungs=self.rungs + extra)


@dataclass(frozen=True, slots=True)
class ParityRun:
    """The questions to judge on, with all their windows, and who is told how many windows are done."""

    dataset: SquadDataset
    windows: Sequence[Window]
    squad_name: str = ""
    pad_id: int = 0
    on_windows: Callable[[int], None] = lambda _: None

    @classmethod
    def of(cls, windower: Windower, dataset: SquadDataset, squad_name: str) -> ParityRun:
        """Make all windows of all questions, in order."""
        pairs = ((question.question, question.context) for question in dataset.questions)
        windows = [window for group in windower.windows_of(pairs) for window in group]
        return cls(dataset, windows, squad_name, windower.pad_id)

    def batches(self, windows: Sequence[Window] | None = None) -> Iterator[Batch]:
        """The windows of the run (or others) in padded batches of similar length."""
        chosen = self.windows if windows is None else windows
        return length_sorted_batches(chosen, pad_id=self.pad_id, pool_windows=len(chosen), length_multiple=FEW_LENGTHS)


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


WORST_COLUMNS = ("question", "rung", "reference", "rung's answer", "margin", "|Δ|")


def worst_rows(report: ParityReport) -> list[tuple[str, ...]]:
    """The worst questions that a rung answers otherwise than the reference, as text, for `WORST_COLUMNS`."""
    return [
        (
            _shortened(question.question),
            rung.name,
            _shortened(question.reference_answer),
            _shortened(question.answer),
            f"{question.margin:.3g}",
            f"{question.max_abs_logit:.2g}",
        )
        for rung in report.rungs
        for question in rung.worst[: rung.differing_spans]
    ]


def _shortened(text: str, longest: int = 40) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def parity_entry(report: ParityReport) -> ParityEntry:
    """The verdict as the manifest keeps it."""
    questions = report.rungs[0].questions
    compared = sum(rung.status in ("passed", "failed") for rung in report.rungs)
    within = sum(rung.status == "passed" for rung in report.rungs)
    closed = ", ".join(rung.name for rung in report.rungs if rung.status == "closed")
    return ParityEntry(
        checked=True,
        passed=report.passed,
        squad_name=report.squad_name,
        squad_sha256=report.squad_sha256,
        questions=questions,
        summary=f"{within} of {compared} rungs within tolerance on {questions} questions"
        + (f"; closed: {closed}" if closed else ""),
    )


@dataclass
class _Climber:
    rung: Rung
    session: Session
    logits: LogitTally = field(default_factory=LogitTally)
    spans: SpanTally = field(default_factory=SpanTally)
    seconds: float = 0.0

    def step(self, batch: Batch, reference: Logits | None) -> Logits:
        begin = time.perf_counter()
        logits = self.session.run(batch)
        self.seconds += time.perf_counter() - begin
        self.logits.add(batch, logits, reference or logits)
        self.spans.add(batch, logits, reference or logits)
        return logits


def climb(
    run: ParityRun, rungs: Sequence[Rung], *, on_reference: Callable[[Batch, Logits], None] | None = None
) -> ParityReport:
    """Run all rungs in lockstep over the windows of the run and judge each against the first one.

    `on_reference` sees the reference's logits (to record them). Raises InputError when there is nothing to compare.
    """
    if not rungs or rungs[0].session is None or not run.windows:
        raise InputError(
            f"parity needs a reference that runs and windows to run on: {len(rungs)} rungs, {len(run.windows)} windows"
        )
    climbers = [_Climber(rung, rung.session) for rung in rungs if rung.session is not None]
    for batch in run.batches():
        reference = climbers[0].step(batch, None)
        if on_reference is not None:
            on_reference(batch, reference)
        for climber in climbers[1:]:
            climber.step(batch, reference)
        run.on_windows(len(batch.windows))
    base = _base_report(climbers[0], run)
    reports = [base, *(_judge(climber, climbers[0], base, run.dataset) for climber in climbers[1:])]
    return ParityReport(
        run.squad_name, run.dataset.sha256, (*reports, *(not_run(rung) for rung in rungs if rung.session is None))
    )


def not_run(rung: Rung) -> RungReport:
    """The report of a rung that nothing here can run."""
    return RungReport(rung.name, rung.precision, "not run", rung.note)


def _base_report(climber: _Climber, run: ParityRun) -> RungReport:
    score = score_predictions(run.dataset, climber.spans.by_question().texts(run.dataset))
    return RungReport(
        name=climber.rung.name,
        precision=climber.rung.precision,
        status="reference",
        note=climber.rung.note,
        questions=len(run.dataset.questions),
        windows=len(run.windows),
        exact_match=score.exact_match,
        f1=score.f1,
        seconds=climber.seconds,
    )


def _judge(climber: _Climber, reference: _Climber, base: RungReport, dataset: SquadDataset) -> RungReport:
    spans, wanted = climber.spans.by_question(), reference.spans.by_question()
    logits = climber.logits.summary()
    report = compare_spans(dataset, spans, wanted, base, near_tie=2 * logits.max_abs_logit)
    report = replace(
        with_logits(report, logits),
        name=climber.rung.name,
        precision=climber.rung.precision,
        note=climber.rung.note,
        windows=base.windows,
        seconds=climber.seconds,
        worst=_worst(climber.logits.by_example, spans, wanted, dataset),
    )
    return judged(report, default_tolerance(climber.rung.precision, base.questions))


def compare_spans(
    dataset: SquadDataset, spans: BestSpans, wanted: BestSpans, base: RungReport, near_tie: float
) -> RungReport:
    """Agreement, EM and F1 of a rung against the reference's spans. A margin below `near_tie` explains a difference."""
    differs = (spans.start != wanted.start) | (spans.end != wanted.end)
    margins = wanted.score - spans.reference_score
    score = score_predictions(dataset, spans.texts(dataset))
    return RungReport(
        name="",
        precision="fp32",
        status="passed",
        questions=len(dataset.questions),
        span_agreement=100 * float(1 - differs.mean()),
        differing_spans=int(differs.sum()),
        unexplained_spans=int((differs & ~(margins < near_tie)).sum()),
        exact_match=score.exact_match,
        f1=score.f1,
        exact_match_drop=base.exact_match - score.exact_match,
        f1_drop=base.f1 - score.f1,
    )


def with_logits(report: RungReport, difference: LogitDifference) -> RungReport:
    """The report with what the logits showed."""
    return replace(
        report,
        max_abs_logit=difference.max_abs_logit,
        mean_abs_logit=difference.mean_abs_logit,
        p999_abs_logit=difference.p999_abs_logit,
    )


def judged(report: RungReport, limits: Tolerance) -> RungReport:
    """The report with its verdict. Comparisons are written so that NaN fails."""
    failures = []
    if not math.isfinite(report.max_abs_logit):
        failures.append("some logits are not finite")
    if limits.max_abs_logit is not None and not report.max_abs_logit <= limits.max_abs_logit:
        failures.append(f"largest |Δlogit| {report.max_abs_logit:.3g} is above {limits.max_abs_logit:g}")
    if limits.explained_spans_only and report.unexplained_spans:
        failures.append(
            f"{report.unexplained_spans} of {report.differing_spans} differing spans are no near ties (margin at least "
            "twice the largest |Δlogit|)"
        )
    least = limits.min_span_agreement
    if least is not None and not report.span_agreement >= least - ROUNDING:
        failures.append(
            f"same best span for {report.span_agreement:.2f} % of {report.questions} questions, below {least:g} %"
        )
    drops = (("EM", report.exact_match_drop, limits.max_em_drop), ("F1", report.f1_drop, limits.max_f1_drop))
    failures += [
        f"{name} drops by {drop:.2f} points on {report.questions} questions, more than {limit:.2f}"
        for name, drop, limit in drops
        if limit is not None and not drop <= limit + ROUNDING
    ]
    return replace(report, status="failed" if failures else "passed", failures=tuple(failures))


def _worst(
    by_example: dict[int, float], spans: BestSpans, wanted: BestSpans, dataset: SquadDataset
) -> tuple[QuestionDifference, ...]:
    """Questions with another answer first, by margin; then those with the largest |Δlogit|."""
    margins = wanted.score - spans.reference_score
    differs = (spans.start != wanted.start) | (spans.end != wanted.end)
    order = sorted(by_example, key=lambda index: (differs[index], margins[index], by_example[index]), reverse=True)
    return tuple(
        QuestionDifference(
            id=dataset.questions[index].id,
            question=dataset.questions[index].question,
            reference_answer=dataset.questions[index].context[wanted.start[index] : wanted.end[index]],
            answer=dataset.questions[index].context[spans.start[index] : spans.end[index]],
            max_abs_logit=by_example[index],
            margin=float(margins[index]),
        )
        for index in order[:WORST_QUESTIONS]
    )
