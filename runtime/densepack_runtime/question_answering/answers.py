"""From logits to answers: the rule behind the published EM and F1.

In every window, the 20 best starts and the 20 best ends among the context tokens are combined; a span must end at or
after its start and have at most 30 tokens; its score is the sum of its two logits. A question's answer is the best span
over all its windows.

    candidates = span_candidates(batch, logits)          # arrays [B, N]
    SpanRules().answers(context, SpanRules().read(batch, logits))       # where all rows are of one question
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.sessions.session import Batch, Logits, Window


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of the context.

    `start` and `end` are character offsets, `text` is context[start:end]. `score` is a probability: the softmax of the
    spans' logit sums over the n-best list of the question. `logit` is that sum itself. The null answer of SQuAD 2 has
    an empty text at 0 to 0.
    """

    text: str
    start: int
    end: int
    score: float
    logit: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The dictionary that the transformers question-answering pipeline returned."""
        return {"score": self.score, "start": self.start, "end": self.end, "answer": self.text}


@dataclass(frozen=True, slots=True)
class SpanRules:
    """How spans are chosen. With `null_threshold`, a question may have no answer (SQuAD 2): the null answer wins when
    its score exceeds that of the best span by more than the threshold.
    """

    max_answer_tokens: int = 30
    n_best: int = 20
    null_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.max_answer_tokens < 1 or self.n_best < 1:
            raise InputError(
                f"max_answer_tokens and n_best must be at least 1, got {self.max_answer_tokens} and {self.n_best}"
            )

    def for_dataset(self, *, allows_no_answer: bool) -> SpanRules:
        """These rules where every question has an answer; with a null threshold, 0 if they have none, for SQuAD 2."""
        if not allows_no_answer or self.null_threshold is not None:
            return self
        return replace(self, null_threshold=0.0)

    def for_best(self, count: int) -> SpanRules:
        """These rules with room for `count` answers."""
        return replace(self, n_best=max(self.n_best, count))

    def read(self, batch: Batch, logits: Logits) -> list[WindowSpans]:
        """The spans of every row that its question's answers are chosen from."""
        found = span_candidates(batch, logits, self)
        return [_window_spans(window, found, row) for row, window in enumerate(batch.windows)]

    def answers(self, context: str, found: Sequence[WindowSpans]) -> list[Answer]:
        """The n-best answers with different texts, best first; with a null threshold the null answer among them.

        The null answer comes first when the threshold decides for it, otherwise its place is that of its score.
        Raises BackendError when the model gave no finite logits to choose by.
        """
        spans = entries = _best_texts(context, found, self.n_best)
        if self.null_threshold is not None:
            null_score = min((window.null_score for window in found if np.isfinite(window.null_score)), default=np.inf)
            entries = sorted([*spans, ("", 0, 0, null_score)], key=lambda entry: -entry[3])
        if not spans or not np.isfinite(entries[0][3]):
            raise BackendError(
                "the model gave no finite logits for this question: its weights are damaged, or the precision "
                "overflows (densepack parity shows where)"
            )
        answers = _with_probabilities(entries)
        return answers if self.null_threshold is None else _null_first(answers, self)


Found = TypeVar("Found")


class Rules(Protocol[Found]):
    """How answers are chosen: `SpanRules`, or `PipelineRules` as the transformers pipeline did."""

    def for_best(self, count: int) -> Self:
        """These rules for `count` answers a question."""
        ...

    def read(self, batch: Batch, logits: Logits, /) -> list[Found]:
        """What the answers are chosen from, of every row; all rows at once, since that is faster."""
        ...

    def answers(self, context: str, found: Sequence[Found], /) -> list[Answer]:
        """The answers to one question, best first, by what was read of all its windows, in any order."""
        ...


def no_answer_wins(
    null_score: float | NDArray[np.float64], span_score: float | NDArray[np.float64], rules: SpanRules
) -> NDArray[np.bool_]:
    """Whether a question has no answer: the null score exceeds that of the best span by more than the threshold.

    The one rule of answers and of parity, for one question or for arrays [questions].
    """
    threshold = np.inf if rules.null_threshold is None else rules.null_threshold
    return np.asarray(null_score) - span_score > threshold


@dataclass(frozen=True, slots=True)
class SpanCandidates:
    """The best spans of every window, best first: token positions (both inclusive) and scores, [B, N] each.

    Where a window has fewer spans, the score is -inf. `null_score` [B] is the sum of the two logits at [CLS].
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    score: NDArray[np.float32]
    null_score: NDArray[np.float32]


def span_candidates(batch: Batch, logits: Logits, rules: SpanRules | None = None) -> SpanCandidates:
    """The `n_best` best spans of every row. Ties go to the earlier start, then to the earlier end.

    A window in which none of the best starts goes with any of the best ends gets the best span of all instead.
    """
    rules = rules or SpanRules()
    start, end = context_logits(batch, logits)
    count = min(rules.n_best, batch.shape[1])
    # Sorting positions again after choosing them makes ties fall to the earlier span.
    starts = np.sort(_best_positions(start, count), axis=1)  # [B, n]
    ends = np.sort(_best_positions(end, count), axis=1)
    span = ends[:, None, :] - starts[:, :, None]  # [B, n, n]
    score = np.take_along_axis(start, starts, 1)[:, :, None] + np.take_along_axis(end, ends, 1)[:, None, :]
    score = np.where((span >= 0) & (span < rules.max_answer_tokens), score, -np.inf).reshape(len(start), -1)
    best = _best_positions(score, min(rules.n_best, score.shape[1]))  # [B, N]
    with np.errstate(invalid="ignore"):  # logits that overflowed are looked for where answers are ranked
        null_score = logits.start[:, 0] + logits.end[:, 0]
    found = SpanCandidates(
        start=np.take_along_axis(starts, best // count, 1),
        end=np.take_along_axis(ends, best % count, 1),
        score=np.take_along_axis(score, best, 1).astype(np.float32),
        null_score=null_score,
    )
    for row in np.flatnonzero(found.score[:, 0] == -np.inf).tolist():
        found.start[row, 0], found.end[row, 0], found.score[row, 0] = _best_of_all(
            batch.windows[row], start[row], end[row], rules.max_answer_tokens
        )
    return found


def best_spans(
    batch: Batch, logits: Logits, rules: SpanRules | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Start and end token (inclusive) and score of the best span of every row, [B] each."""
    found = span_candidates(batch, logits, rules)
    return found.start[:, 0], found.end[:, 0], found.score[:, 0]


def context_logits(batch: Batch, logits: Logits) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logits with everything that is not context, or not finite, at -inf. float32 [B, S] each."""
    columns = np.arange(batch.shape[1])
    first = np.array([window.context_start for window in batch.windows])[:, None]
    last = np.array([window.length - 1 for window in batch.windows])[:, None]  # the closing [SEP]
    inside = (columns >= first) & (columns < last)
    start = np.where(inside & np.isfinite(logits.start), logits.start, -np.inf)
    end = np.where(inside & np.isfinite(logits.end), logits.end, -np.inf)
    return start.astype(np.float32), end.astype(np.float32)


def _best_positions(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest values of every row, largest first, ties to the left."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def _best_of_all(
    window: Window, start: NDArray[np.float32], end: NDArray[np.float32], longest: int
) -> tuple[int, int, float]:
    """The best span of at most `longest` tokens of one window, by looking at all of them."""
    first, last = window.context_start, window.length - 1
    longest = min(longest, last - first)
    padded = np.concatenate([end[first:last], np.full(longest - 1, -np.inf, dtype=end.dtype)])
    ends = np.lib.stride_tricks.sliding_window_view(padded, longest)  # [context tokens, longest]
    score = start[first:last, None] + ends
    place, length = np.unravel_index(int(np.argmax(score)), score.shape)
    return int(first + place), int(first + place + length), float(score[place, length])


def character_spans(window: Window, start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int32]:
    """Characters (start, end) of the context that token spans of one window cover, int32 [N, 2]."""
    return np.stack(
        [window.offsets[start - window.context_start, 0], window.offsets[end - window.context_start, 1]], axis=1
    )


@dataclass(frozen=True, slots=True)
class WindowSpans:
    """The best spans of one window: its first token (to break ties), characters int32 [N, 2], scores float32 [N]."""

    first_token: int
    places: NDArray[np.int32]
    scores: NDArray[np.float32]
    null_score: float


def _window_spans(window: Window, found: SpanCandidates, row: int) -> WindowSpans:
    valid = np.isfinite(found.score[row])
    places = character_spans(window, found.start[row][valid], found.end[row][valid])
    return WindowSpans(window.first_token, places, found.score[row][valid], float(found.null_score[row]))


def _best_texts(context: str, found: Sequence[WindowSpans], count: int) -> list[tuple[str, int, int, float]]:
    """The best spans with different texts, best first: text, characters and score."""
    in_order = sorted(found, key=lambda window: window.first_token)
    places = np.concatenate([window.places for window in in_order])
    scores = np.concatenate([window.scores for window in in_order]).astype(np.float64)
    best: dict[str, tuple[int, int, float]] = {}
    for index in np.argsort(-scores, kind="stable").tolist():
        start, end = places[index].tolist()
        best.setdefault(context[start:end], (start, end, float(scores[index])))
        if len(best) == count:
            break
    return [(text, *place) for text, place in best.items()]


def _with_probabilities(entries: Sequence[tuple[str, int, int, float]]) -> list[Answer]:
    """Answers whose scores are the softmax of the logit sums."""
    logits = np.array([entry[3] for entry in entries])
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    return [
        Answer(text, start, end, float(weight), logit)
        for (text, start, end, logit), weight in zip(entries, weights.tolist(), strict=True)
    ]


def _null_first(answers: Sequence[Answer], rules: SpanRules) -> list[Answer]:
    """The list with the answer in front that the threshold decides for."""
    null = next(answer for answer in answers if not answer.text)
    spans = [answer for answer in answers if answer.text]
    if spans and not no_answer_wins(null.logit, spans[0].logit, rules):
        rest = sorted([null, *spans[1:]], key=lambda answer: -answer.logit)
        return [spans[0], *rest]
    return [null, *spans]


def null_odds(answers: Iterable[Answer]) -> float:
    """Score of the null answer less that of the best span: what the official SQuAD 2 script calls na_prob."""
    ranked = list(answers)
    null = next((answer.logit for answer in ranked if not answer.text), -np.inf)
    best = max((answer.logit for answer in ranked if answer.text), default=-np.inf)
    return float(null - best)
