"""The ladder: does every step from the original module to the engine still answer like the original?

Rung 0 is the reference; every other rung is a Session that runs on the same real, padded SQuAD windows and is compared
with it: logits at unpadded positions, the best span of every question, EM and F1. A rung outside its tolerance closes
the gate.

    run = ParityRun.of(windower, read_squad("dev-v1.1.json"), "dev-v1.1.json")
    report = climb(run, [Rung("transformers", reference, "fp32"), Rung("ONNX FP16", session, "fp16")])
    report.passed, report.failures
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from densepack_runtime.errors import InputError
from densepack_runtime.parity.judgement import compare_spans, default_tolerance, judge
from densepack_runtime.parity.report import ParityReport, QuestionDifference, RungReport
from densepack_runtime.parity.tally import BestSpans, LogitTally, SpanTally
from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.question_answering.squad import SquadDataset, refuse_unscorable, score_predictions
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.batching import FEW_LENGTHS, length_sorted_batches
from densepack_runtime.sessions.session import Batch, ComputePrecision, Logits, Session, Window

WORST_QUESTIONS = 5


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder. Without a session it is reported with `note` (built, not run) and never as passed."""

    name: str
    session: Session | None
    precision: ComputePrecision = "fp32"
    note: str = ""


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
        """Make all windows of all questions, in order. Raises InputError for questions that cannot be run or scored."""
        refuse_unscorable(dataset)
        pairs = ((question.question, question.context) for question in dataset.questions)
        windows = [window for group in windower.windows_of(pairs) for window in group]
        return cls(dataset, windows, squad_name, windower.pad_id)

    @property
    def rules(self) -> SpanRules:
        """How questions are answered: as `densepack eval` does, no answer included where the dataset has it."""
        return SpanRules().for_dataset(allows_no_answer=self.dataset.allows_no_answer)

    def batches(self, windows: Sequence[Window] | None = None) -> Iterator[Batch]:
        """The windows of the run (or others) in padded batches of similar length."""
        chosen = self.windows if windows is None else windows
        return length_sorted_batches(chosen, pad_id=self.pad_id, pool_windows=len(chosen), length_multiple=FEW_LENGTHS)


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
    rules = run.rules
    answers = [climber.spans.by_question().best_answers(rules) for climber in climbers]
    base = reference_report(climbers[0].rung.name, run, answers[0], len(run.windows), climbers[0].seconds)
    reports = [
        _judged(climber, found, answers[0], base, run.dataset)
        for climber, found in zip(climbers[1:], answers[1:], strict=True)
    ]
    return ParityReport(
        run.squad_name, run.dataset.sha256, (base, *reports, *(not_run(rung) for rung in rungs if rung.session is None))
    )


def not_run(rung: Rung) -> RungReport:
    """The report of a rung that nothing here can run."""
    return RungReport(rung.name, rung.precision, "not run", rung.note)


def reference_report(name: str, run: ParityRun, answers: BestSpans, windows: int, seconds: float = 0.0) -> RungReport:
    """The report of rung 0, which is judged by nobody."""
    score = score_predictions(run.dataset, answers.texts(run.dataset))
    return RungReport(
        name=name,
        precision="fp32",
        status="reference",
        questions=len(run.dataset.questions),
        windows=windows,
        exact_match=score.exact_match,
        f1=score.f1,
        seconds=seconds,
    )


def _judged(
    climber: _Climber, spans: BestSpans, wanted: BestSpans, base: RungReport, dataset: SquadDataset
) -> RungReport:
    rung, logits = climber.rung, climber.logits.summary()
    return judge(
        rung.name,
        rung.precision,
        logits,
        compare_spans(dataset, spans, wanted, base, near_tie=2 * logits.max_abs_logit),
        default_tolerance(rung.precision, base.questions),
        note=rung.note,
        windows=base.windows,
        seconds=climber.seconds,
        worst=_worst(climber.logits.by_example, spans, wanted, dataset),
    )


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
