"""PyTorch's answers in a file, so that a host without PyTorch can still check its engine against them.

`reference.npz` holds the reference's logits for 256 windows stratified by length, with their token ids, and for the
SQuAD file of the build (by sha256) the best span of every question with its score and margin.

    recorded = RecordedReference.load(bundle.path("reference.npz"))
    report = recorded.compare(run, rungs)
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BundleError, InputError
from densepack_runtime.parity.climb import ParityRun, Rung, not_run, reference_report
from densepack_runtime.parity.judgement import compare_spans, default_tolerance, judge
from densepack_runtime.parity.report import ParityReport, RungReport
from densepack_runtime.parity.tally import BestSpans, LogitTally, QuestionTable, SpanTally
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.sessions.session import Batch, Logits, Window

RECORDED_WINDOWS = 256
_ARRAYS = ("lengths", "context_starts", "token_ids", "start_logits", "end_logits", "spans", "scores", "squad_sha256")


def stratified_windows(windows: Sequence[Window], count: int = RECORDED_WINDOWS) -> list[Window]:
    """`count` windows spread evenly over all lengths: every (n/count)-th in order of length."""
    ordered = sorted(windows, key=lambda window: (window.length, window.example, window.first_token))
    places = np.unique(np.linspace(0, len(ordered) - 1, num=min(count, len(ordered))).round().astype(int))
    return [ordered[place] for place in places.tolist()]


@dataclass
class ReferenceRecorder:
    """Watches a climb (`on_reference=recorder`) and saves what the reference said."""

    windows: Sequence[Window]
    dataset: SquadDataset
    spans: SpanTally = field(default_factory=SpanTally)
    logits: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chosen = stratified_windows(self.windows)
        self._keys = {(window.example, window.first_token) for window in self.chosen}

    def __call__(self, batch: Batch, logits: Logits) -> None:
        self.spans.add(batch, logits, logits)
        for row, window in enumerate(batch.windows):
            key = (window.example, window.first_token)
            if key in self._keys:
                self.logits[key] = (logits.start[row, : window.length].copy(), logits.end[row, : window.length].copy())

    def save(self, path: Path) -> None:
        """Write the .npz (no pickles inside)."""
        best = self.spans.by_question()
        spans = best.spans
        logits = [self.logits[window.example, window.first_token] for window in self.chosen]
        np.savez_compressed(
            path,
            lengths=np.array([window.length for window in self.chosen], dtype=np.int32),
            context_starts=np.array([window.context_start for window in self.chosen], dtype=np.int32),
            token_ids=np.concatenate([window.token_ids for window in self.chosen]).astype(np.int32),
            start_logits=np.concatenate([start for start, _ in logits]),
            end_logits=np.concatenate([end for _, end in logits]),
            spans=np.stack([spans.start, spans.end], axis=1),
            scores=spans.score,
            null_scores=best.null_score,
            squad_sha256=np.array(self.dataset.sha256),
        )


@dataclass(frozen=True, slots=True)
class RecordedReference:
    """What `ReferenceRecorder` saved: windows with logits, and of one SQuAD file spans [questions, 2] with scores.

    `null_scores` [questions] are those of no answer; None in a file that was recorded without them.
    """

    windows: tuple[Window, ...]
    start_logits: tuple[NDArray[np.float32], ...]
    end_logits: tuple[NDArray[np.float32], ...]
    spans: NDArray[np.int64]
    scores: NDArray[np.float64]
    null_scores: NDArray[np.float64] | None
    squad_sha256: str

    @classmethod
    def load(cls, path: Path) -> RecordedReference:
        """Read reference.npz. Raises BundleError when it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in _ARRAYS}
                null_scores = data.get("null_scores")
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{path} cannot be read ({error}): build the bundle again") from error
        cuts = np.cumsum(arrays["lengths"])[:-1]
        windows = tuple(
            Window(
                example=index,
                token_ids=ids,
                context_start=int(start),
                offsets=np.zeros((len(ids) - 1 - int(start), 2), dtype=np.int32),
            )
            for index, (ids, start) in enumerate(
                zip(np.split(arrays["token_ids"], cuts), arrays["context_starts"], strict=True)
            )
        )
        return cls(
            windows=windows,
            start_logits=tuple(np.split(arrays["start_logits"], cuts)),
            end_logits=tuple(np.split(arrays["end_logits"], cuts)),
            spans=arrays["spans"],
            scores=arrays["scores"],
            null_scores=null_scores,
            squad_sha256=str(arrays["squad_sha256"]),
        )

    def logits_of(self, batch: Batch) -> Logits:
        """The recorded logits of a batch made of this object's windows, zero at padded positions."""
        start, end = (np.zeros(batch.shape, dtype=np.float32) for _ in range(2))
        for row, window in enumerate(batch.windows):
            start[row, : window.length] = self.start_logits[window.example]
            end[row, : window.length] = self.end_logits[window.example]
        return Logits(start, end)

    def compare(self, run: ParityRun, rungs: Sequence[Rung]) -> ParityReport:
        """Judge `rungs` on the recorded windows (logits) and on the dataset of the run (spans, EM, F1).

        Raises InputError when the dataset is not the file that was recorded.
        """
        dataset = run.dataset
        if dataset.sha256 != self.squad_sha256 or len(dataset.questions) != len(self.scores):
            raise InputError(
                f"the recorded reference is for {len(self.scores)} questions of another SQuAD file (sha256 "
                f"{self.squad_sha256[:12]}…, this one has {len(dataset.questions)} and {dataset.sha256[:12]}…): pass "
                "that file, or on a host with PyTorch the original checkpoint with --checkpoint"
            )
        wanted = self._best_answers(run)
        base = reference_report("PyTorch (recorded)", run, wanted, len(self.windows))
        reports = [self._judged(rung, run, wanted, base) for rung in rungs]
        return ParityReport(run.squad_name, dataset.sha256, (base, *reports))

    def _best_answers(self, run: ParityRun) -> BestSpans:
        """Spans, or no answer where the rules of the run decide for it."""
        null_scores = self.null_scores
        if null_scores is None:
            if run.dataset.allows_no_answer:
                raise InputError(
                    "the recorded reference knows no null answers, which this SQuAD 2 file has: build the bundle "
                    "again, or on a host with PyTorch pass the original checkpoint with --checkpoint"
                )
            null_scores = np.full(len(self.scores), np.inf)
        spans = BestSpans(self.spans[:, 0], self.spans[:, 1], self.scores, self.scores)
        return QuestionTable(spans, null_scores, null_scores).best_answers(run.rules)

    def _with_reference_scores(self, table: QuestionTable) -> QuestionTable:
        """The table with what is known of the reference: its null scores, and that no span is above its best.

        What it gives another span is not recorded: up to that, the rung's own score stands in for it.
        """
        spans = replace(table.spans, reference_score=np.minimum(table.spans.score, self.scores))
        return QuestionTable(
            spans, table.null_score, table.null_score if self.null_scores is None else self.null_scores
        )

    def _judged(self, rung: Rung, run: ParityRun, wanted: BestSpans, base: RungReport) -> RungReport:
        if rung.session is None:
            return not_run(rung)
        begin = time.perf_counter()
        tally, spans = LogitTally(), SpanTally()
        for batch in run.batches(self.windows):
            tally.add(batch, rung.session.run(batch), self.logits_of(batch))
        for batch in run.batches():
            logits = rung.session.run(batch)
            spans.add(batch, logits, logits)
            run.on_windows(len(batch.windows))
        table, rules = spans.by_question(), run.rules
        difference = tally.summary()
        if not table.is_finite(rules):  # beyond the recorded windows, too
            difference = replace(difference, max_abs_logit=math.inf)
        found = self._with_reference_scores(table).best_answers(rules)
        return judge(
            rung.name,
            rung.precision,
            difference,
            compare_spans(run.dataset, found, wanted, base, near_tie=2 * difference.max_abs_logit),
            default_tolerance(rung.precision, base.questions),
            note=rung.note,
            windows=len(run.windows),
            seconds=time.perf_counter() - begin,
        )
