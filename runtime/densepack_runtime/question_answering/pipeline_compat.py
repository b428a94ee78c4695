"""Answers as the question-answering pipeline of transformers 4 gave them.

That pipeline is gone from transformers 5, and checkpoints were published with its output. It differs from the SQuAD
rule in `answers.py`: a softmax over every window by itself ([CLS] takes part in the sum, but is no answer), the product
of the two probabilities as score, at most 15 tokens, spans widened to whole words, and scores of spans with equal text
added up. Behaviour as in transformers 4.57.

    answers = pipeline_answers(context, windows, logits, PipelineRules(top_k=5))

Spans of probability zero are left out; the pipeline filled up short lists with them, in no defined order. So are spans
that begin or end at a [CLS] which the question spells: there the pipeline gave characters of the question as places in
the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.sessions.session import Batch, Logits, Window

_NOT_FINITE = "the model gave no finite logits for this question (densepack parity shows where)"
WindowLogits = tuple[NDArray[np.float32], NDArray[np.float32]]
WindowAndLogits = tuple[Window, WindowLogits]


@dataclass(frozen=True, slots=True)
class PipelineRules:
    """The pipeline's parameters with its defaults."""

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.max_answer_len < 1:
            raise InputError(f"top_k and max_answer_len must be at least 1, got {self.top_k}, {self.max_answer_len}")

    def for_best(self, count: int) -> PipelineRules:
        """These rules for `count` answers."""
        return replace(self, top_k=count)

    def read(self, batch: Batch, logits: Logits) -> list[WindowAndLogits]:
        """Every row without its padding."""
        return [
            (window, (logits.start[row, : window.length], logits.end[row, : window.length]))
            for row, window in enumerate(batch.windows)
        ]

    def answers(self, context: str, found: Sequence[WindowAndLogits]) -> list[Answer]:
        """The answers to one question, best first. Raises BackendError for logits that are not finite."""
        windows, logits = zip(*found, strict=True)
        return pipeline_answers(context, windows, logits, self)


def pipeline_answers(
    context: str,
    windows: Sequence[Window],
    logits: Sequence[WindowLogits],
    rules: PipelineRules | None = None,
) -> list[Answer]:
    """The `top_k` answers to one question, best first.

    `logits` holds start and end float32 [S] of every window, unpadded. With `handle_impossible_answer`, the empty
    answer is among them with the smallest null probability of any window. Raises BackendError for logits that are not
    finite.
    """
    rules = rules or PipelineRules()
    found: dict[str, Answer] = {}
    null_score = 1.0
    for window, (start, end) in sorted(zip(windows, logits, strict=True), key=lambda pair: pair[0].first_token):
        start_probability, null_start = _probabilities(start, window)
        end_probability, null_end = _probabilities(end, window)
        null_score = min(null_score, null_start * null_end)
        places = _characters(window, rules.align_to_words)
        for first, last, score in _best_spans(start_probability, end_probability, rules):
            _collect(found, context, int(places[first, 0]), int(places[last, 1]), score)
    answers = list(found.values())
    if rules.handle_impossible_answer:
        answers.append(Answer("", 0, 0, null_score))
    if not answers:
        raise BackendError(_NOT_FINITE)
    return sorted(answers, key=lambda answer: answer.score, reverse=True)[: rules.top_k]


def _probabilities(logits: NDArray[np.float32], window: Window) -> tuple[NDArray[np.float32], float]:
    """Softmax over the context tokens and every [CLS]: probabilities of the context tokens [n], and of the first [CLS].

    A question that spells [CLS] has another.
    """
    head, context = window.token_ids[: window.context_start], logits[window.context_start : window.length - 1]
    cls = logits[: len(head)][head == head[0]]
    weights = np.exp(np.concatenate([cls, context]) - max(cls.max(), context.max()))
    weights /= weights.sum()
    if not np.isfinite(weights).all():
        raise BackendError(_NOT_FINITE)
    return weights[len(cls) :], float(weights[0])


def _best_spans(
    start: NDArray[np.float32], end: NDArray[np.float32], rules: PipelineRules
) -> list[tuple[int, int, float]]:
    """The best spans of one window as context tokens (both inclusive), best first.

    Some are lost when they are aligned to words, so the pipeline took more of them than were asked for.
    """
    wanted = 2 * rules.top_k + 10 if rules.align_to_words else rules.top_k
    scores = np.tril(np.triu(np.outer(start, end)), min(rules.max_answer_len, len(end)) - 1)
    flat = scores.ravel()
    count = min(wanted, flat.size)
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    first, last = np.unravel_index(best, scores.shape)
    spans = zip(first.tolist(), last.tolist(), flat[best].tolist(), strict=True)
    return [(one, other, score) for one, other, score in spans if score > 0]


def _characters(window: Window, align_to_words: bool) -> NDArray[np.int32]:
    """Where an answer begins and ends in the context when its first or last token is this one, [n, 2]."""
    if not align_to_words:
        return window.offsets
    firsts = np.searchsorted(window.words, window.words, side="left")  # in this window, which can begin inside a word
    lasts = np.searchsorted(window.words, window.words, side="right") - 1
    return np.stack([window.offsets[firsts, 0], window.offsets[lasts, 1]], axis=1)


def _collect(found: dict[str, Answer], context: str, start: int, end: int, score: float) -> None:
    """Add a span; one with a text that is there already (whatever its case) adds its score to that."""
    text = context[start:end]
    key = text.lower()
    known = found.get(key)
    found[key] = (
        Answer(text, start, end, score)
        if known is None
        else Answer(known.text, known.start, known.end, known.score + score)
    )
