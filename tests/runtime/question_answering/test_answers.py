"""Spans are those that brute force finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.question_answering.answers import (
    Answer,
    SpanRules,
    best_spans,
    null_odds,
    span_candidates,
)
from densepack_runtime.sessions.batching import pad_windows
from densepack_runtime.sessions.session import Batch, Logits, Window

CONTEXT = "abcdefghijklmnopqrstuvwxyz"


def make_window(context_tokens: int, *, question_tokens: int = 2, first_token: int = 0, example: int = 0) -> Window:
    """One character a token, so that spans can be read off."""
    places = np.arange(first_token, first_token + context_tokens, dtype=np.int32)
    start = question_tokens + 2
    return Window(
        example,
        np.ones(start + context_tokens + 1, dtype=np.int32),
        context_start=start,
        offsets=np.stack([places, places + 1], axis=1),
        first_token=first_token,
    )


def make_logits(batch: Batch, seed: int, *, coarse: bool = False) -> Logits:
    rng = np.random.default_rng(seed)
    draw = (lambda: rng.integers(-3, 4, batch.shape)) if coarse else (lambda: rng.normal(0, 3, batch.shape))
    return Logits(draw().astype(np.float32), draw().astype(np.float32))


def brute_force(window: Window, start: np.ndarray, end: np.ndarray, rules: SpanRules) -> list[tuple[float, int, int]]:
    """All spans of the n-best starts with the n-best ends, best first, one at a time."""
    inside = range(window.context_start, window.length - 1)
    starts = sorted(inside, key=lambda place: (-start[place], place))[: rules.n_best]
    ends = sorted(inside, key=lambda place: (-end[place], place))[: rules.n_best]
    spans = [
        (float(np.float32(start[s]) + np.float32(end[e])), s, e)
        for s, e in itertools.product(starts, ends)
        if 0 <= e - s < rules.max_answer_tokens
    ]
    return sorted(spans, key=lambda span: (-span[0], span[1], span[2]))[: rules.n_best]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 26), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    n_best=st.integers(1, 25),
    longest=st.integers(1, 30),
    coarse=st.booleans(),
)
def test_candidates_are_those_of_brute_force(
    sizes: list[int], seed: int, n_best: int, longest: int, coarse: bool
) -> None:
    rules = SpanRules(max_answer_tokens=longest, n_best=n_best)
    batch = pad_windows([make_window(size) for size in sizes])
    logits = make_logits(batch, seed, coarse=coarse)
    found = span_candidates(batch, logits, rules)
    for row, window in enumerate(batch.windows):
        expected = brute_force(window, logits.start[row], logits.end[row], rules)
        valid = np.isfinite(found.score[row])
        if not expected:  # none of the best starts goes with any of the best ends
            assert valid.sum() == 1
            continue
        got = list(zip(found.score[row][valid], found.start[row][valid], found.end[row][valid], strict=True))
        assert got == expected


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 26), seed=st.integers(0, 2**20), longest=st.integers(1, 4))
def test_there_is_always_a_best_span(size: int, seed: int, longest: int) -> None:
    """Where the best starts and ends do not go together, the best span of all is taken."""
    window = make_window(size)
    batch = pad_windows([window])
    logits = make_logits(batch, seed)
    start, end, score = best_spans(batch, logits, SpanRules(max_answer_tokens=longest, n_best=1))
    inside = range(window.context_start, window.length - 1)
    spans = [(s, e) for s in inside for e in inside if 0 <= e - s < longest]
    best = max(float(logits.start[0, s] + logits.end[0, e]) for s, e in spans)
    top = (int(logits.start[0, list(inside)].argmax()), int(logits.end[0, list(inside)].argmax()))
    assert (start[0], end[0]) in spans
    if not 0 <= top[1] - top[0] < longest:
        assert score[0] == pytest.approx(best)


def test_question_special_and_padded_tokens_are_never_answers() -> None:
    window = make_window(3)
    batch = pad_windows([window], length=20)
    start = np.full((1, 20), 100, dtype=np.float32)
    start[0, window.context_start : window.length - 1] = 0
    first, last, _ = best_spans(batch, Logits(start, start))
    assert window.context_start <= first[0] <= last[0] < window.length - 1


def rank(windows: list[Window], logits: list[tuple[np.ndarray, np.ndarray]], rules: SpanRules) -> list[Answer]:
    found = [
        spans
        for window, (start, end) in zip(windows, logits, strict=True)
        for spans in rules.read(pad_windows([window]), Logits(start[None], end[None]))
    ]
    return rules.answers(CONTEXT, found)


def peaked(window: Window, start: int, end: int, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of one window with one peak at context tokens `start` and `end`."""
    left, right = (np.zeros(window.length, dtype=np.float32) for _ in range(2))
    left[window.context_start + start] = right[window.context_start + end] = height
    return left, right


def test_the_best_window_wins_and_offsets_are_those_of_the_context() -> None:
    windows = [make_window(10), make_window(10, first_token=8)]
    best = rank(windows, [peaked(windows[0], 1, 2, 3), peaked(windows[1], 4, 6, 5)], SpanRules())[0]
    assert (best.text, best.start, best.end) == ("mno", 12, 15)
    assert best.logit == 10


def test_of_equal_windows_the_first_in_the_context_wins() -> None:
    windows = [make_window(10, first_token=8), make_window(10)]
    best = rank(windows, [peaked(windows[0], 1, 1, 5), peaked(windows[1], 1, 1, 5)], SpanRules())[0]
    assert best.start == 1


def test_texts_of_the_n_best_list_differ_and_scores_are_probabilities() -> None:
    windows = [make_window(10), make_window(10, first_token=5)]
    answers = rank(windows, [peaked(window, 2, 3, 4) for window in windows], SpanRules(n_best=20))
    assert len({answer.text for answer in answers}) == len(answers)
    assert sum(answer.score for answer in answers) == pytest.approx(1)
    assert [answer.score for answer in answers] == sorted((answer.score for answer in answers), reverse=True)
    assert all(answer.text == CONTEXT[answer.start : answer.end] for answer in answers)


@pytest.mark.parametrize(("threshold", "text"), [(-1.0, ""), (0.0, "c"), (5.0, "c")])
def test_null_answer(threshold: float, text: str) -> None:
    window = make_window(10)
    start, end = peaked(window, 2, 2, 4)
    start[0] = end[0] = 3.9  # [CLS]: a null score of 7.8 against 8
    answers = rank([window], [(start, end)], SpanRules(null_threshold=threshold))
    assert answers[0].text == text
    assert null_odds(answers) == pytest.approx(-0.2, abs=1e-5)
    assert sum(not answer.text for answer in answers) == 1


def test_no_answer_has_to_be_better_by_more_than_the_threshold() -> None:
    window = make_window(10)
    start, end = peaked(window, 2, 2, 4)
    start[0] = end[0] = 5  # [CLS]: a null score of 10 against 8
    assert rank([window], [(start, end)], SpanRules(null_threshold=2.0))[0].text == "c"
    assert rank([window], [(start, end)], SpanRules(null_threshold=1.99))[0].text == ""


def test_the_smallest_null_score_of_all_windows_counts() -> None:
    windows = [make_window(10), make_window(10, first_token=8)]
    logits = [peaked(window, 2, 2, 4) for window in windows]
    logits[0][0][0] = 50  # the first window is sure that the answer is not in it
    assert rank(windows, logits, SpanRules(null_threshold=0.0))[0].text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_logits_that_are_not_finite_are_an_error(value: float, threshold: float | None) -> None:
    window = make_window(4)
    logits = np.full(window.length, value, dtype=np.float32)
    with pytest.raises(BackendError, match="no finite logits"):
        rank([window], [(logits, logits)], SpanRules(null_threshold=threshold))
    logits[0] = 0  # [CLS] alone is no ground for "no answer"
    with pytest.raises(BackendError, match="no finite logits"):
        rank([window], [(logits, logits)], SpanRules(null_threshold=threshold))


def test_null_logits_that_are_not_finite_are_an_error() -> None:
    window = make_window(4)
    start, end = peaked(window, 1, 2, 3)
    start[0], end[0] = np.inf, -np.inf
    with pytest.raises(BackendError, match="no finite logits"):
        rank([window], [(start, end)], SpanRules(null_threshold=0.0))


def test_a_window_without_finite_logits_still_names_a_place_in_the_context() -> None:
    window = make_window(2, question_tokens=9)
    nan = np.full((1, window.length), np.nan, dtype=np.float32)
    start, end, score = best_spans(pad_windows([window]), Logits(nan, nan))
    assert window.context_start <= start[0] <= end[0] < window.length - 1
    assert score[0] == -np.inf


@pytest.mark.parametrize("setting", ["max_answer_tokens", "n_best"])
def test_rules_must_be_positive(setting: str) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        SpanRules(**{setting: 0})


def test_answer_as_the_pipeline_returned_it() -> None:
    assert Answer("a", 1, 2, 0.5).as_dict() == {"score": 0.5, "start": 1, "end": 2, "answer": "a"}
