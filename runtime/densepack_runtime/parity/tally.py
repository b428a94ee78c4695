"""What parity collects while it runs: logit differences and best spans, kept small enough for whole datasets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.question_answering.answers import SpanRules, no_answer_wins, span_candidates
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.sessions.session import Batch, Logits, Window


@dataclass(frozen=True, slots=True)
class BestSpans:
    """The best answer to every question, as characters of its context; 0 to 0 is no answer. All arrays [questions].

    `score` is the sum of its two logits, for no answer that at [CLS] less the null threshold; `reference_score` is what
    the reference gives the same answer.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    score: NDArray[np.float64]
    reference_score: NDArray[np.float64]

    def texts(self, dataset: SquadDataset) -> dict[str, str]:
        """Predictions by question id."""
        return {
            question.id: question.context[start:end]
            for question, start, end in zip(dataset.questions, self.start.tolist(), self.end.tolist(), strict=True)
        }


@dataclass
class SpanTally:
    """Collects the best span of every window and its null score, and reduces to questions.

    A row a window: question, first token, characters, score and the reference's, null score and the reference's.
    """

    rows: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, batch: Batch, logits: Logits, reference: Logits) -> None:
        found = span_candidates(batch, logits, SpanRules())
        start, end, score = found.start[:, 0], found.end[:, 0], found.score[:, 0]  # token positions and score, [B] each
        row = np.arange(len(start))
        reference_score = reference.start[row, start].astype(np.float64) + reference.end[row, end]
        places = [
            window_characters(window, int(s), int(e)) for window, s, e in zip(batch.windows, start, end, strict=True)
        ]
        keys = [(window.example, window.first_token) for window in batch.windows]
        nulls = [_finite(part.start[:, 0] + part.end[:, 0]) for part in (logits, reference)]
        self.rows.append(np.column_stack([np.array(keys), np.array(places), score, reference_score, *nulls]))

    def by_question(self) -> QuestionTable:
        """The window with the highest score wins; of equal ones the first in the context. Null scores: the smallest."""
        table = np.concatenate(self.rows)
        table = table[np.lexsort((table[:, 1], -table[:, 4], table[:, 0]))]
        _, first = np.unique(table[:, 0], return_index=True)
        winners, nulls = table[first], np.minimum.reduceat(table[:, 6:8], first, axis=0)
        spans = BestSpans(
            start=winners[:, 2].astype(np.int64),
            end=winners[:, 3].astype(np.int64),
            score=winners[:, 4],
            reference_score=winners[:, 5],
        )
        return QuestionTable(spans, nulls[:, 0], nulls[:, 1])


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Null scores with those that are not finite at infinity, as answers have them."""
    return np.where(np.isfinite(values), values, np.inf).astype(np.float64)


@dataclass(frozen=True, slots=True)
class QuestionTable:
    """The best span of every question, and its null scores [questions], ours and the reference's."""

    spans: BestSpans
    null_score: NDArray[np.float64]
    reference_null_score: NDArray[np.float64]

    def is_finite(self, rules: SpanRules) -> bool:
        """Whether every question has a score to be answered by, and a null score where the rules ask for one."""
        asked = [self.spans.score] if rules.null_threshold is None else [self.spans.score, self.null_score]
        return all(bool(np.isfinite(scores).all()) for scores in asked)

    def best_answers(self, rules: SpanRules) -> BestSpans:
        """The best span of every question, or no answer where the rules decide for it."""
        spans, threshold = self.spans, rules.null_threshold or 0.0
        empty = no_answer_wins(self.null_score, spans.score, rules)
        return BestSpans(
            start=np.where(empty, 0, spans.start),
            end=np.where(empty, 0, spans.end),
            score=np.where(empty, self.null_score - threshold, spans.score),
            reference_score=np.where(empty, self.reference_null_score - threshold, spans.reference_score),
        )


def window_characters(window: Window, start: int, end: int) -> tuple[int, int]:
    """Characters of the context that tokens `start` to `end` (inclusive positions in the window) cover."""
    first, last = window.offsets[start - window.context_start], window.offsets[end - window.context_start]
    return int(first[0]), int(last[1])


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """Largest, mean and 99.9th percentile of |Δlogit|."""

    max_abs_logit: float
    mean_abs_logit: float
    p999_abs_logit: float


@dataclass
class LogitTally:
    """Collects |Δlogit| at unpadded positions."""

    differences: list[NDArray[np.float32]] = field(default_factory=list)
    by_example: dict[int, float] = field(default_factory=dict)

    def add(self, batch: Batch, logits: Logits, reference: Logits) -> None:
        real = batch.attention_mask.astype(bool)
        delta = np.maximum(np.abs(logits.start - reference.start), np.abs(logits.end - reference.end))
        both = np.stack([np.abs(logits.start - reference.start)[real], np.abs(logits.end - reference.end)[real]])
        self.differences.append(both.ravel())
        largest = np.where(real, delta, 0).max(axis=1)
        for window, value in zip(batch.windows, largest.tolist(), strict=True):
            self.by_example[window.example] = max(self.by_example.get(window.example, 0.0), value)

    def summary(self) -> LogitDifference:
        values = np.concatenate(self.differences)
        return LogitDifference(
            max_abs_logit=float(values.max()),
            mean_abs_logit=float(values.mean(dtype=np.float64)),
            p999_abs_logit=float(np.quantile(values, 0.999)),
        )
