"""What parity collects while it runs: logit differences and best spans, kept small enough for whole datasets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.question_answering.answers import SpanRules, best_spans
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.sessions.session import Batch, Logits, Window


@dataclass(frozen=True, slots=True)
class BestSpans:
    """The best span of every question, as characters of its context. All arrays [questions].

    `reference_score` is what the reference gives that same span (the sum of its two logits).
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
    """Collects the best span of every window and reduces to questions."""

    rows: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, batch: Batch, logits: Logits, reference: Logits) -> None:
        start, end, score = best_spans(batch, logits, SpanRules())  # token positions and score, [B] each
        row = np.arange(len(start))
        reference_score = reference.start[row, start].astype(np.float64) + reference.end[row, end]
        places = [
            window_characters(window, int(s), int(e)) for window, s, e in zip(batch.windows, start, end, strict=True)
        ]
        keys = [(window.example, window.first_token) for window in batch.windows]
        self.rows.append(np.column_stack([np.array(keys), np.array(places), score, reference_score]))

    def by_question(self) -> BestSpans:
        """The window with the highest score wins; of equal ones the first in the context."""
        table = np.concatenate(self.rows)
        table = table[np.lexsort((table[:, 1], -table[:, 4], table[:, 0]))]
        _, first = np.unique(table[:, 0], return_index=True)
        winners = table[first]
        return BestSpans(
            start=winners[:, 2].astype(np.int64),
            end=winners[:, 3].astype(np.int64),
            score=winners[:, 4],
            reference_score=winners[:, 5],
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
