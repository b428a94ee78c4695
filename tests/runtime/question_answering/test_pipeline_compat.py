"""`compat="transformers"` gives what the pipeline of transformers 4.57 gave, on cases that were recorded from it.

The recording (`tests/peers/record_pipeline.py`) holds token ids, logits and answers; neither a model nor PyTorch is
needed here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.pipeline_compat import PipelineRules, WindowLogits, pipeline_answers
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.session import Batch, Logits, SessionBase, Window

RECORDING = Path(__file__).resolve().parents[2] / "peers" / "results" / "pipeline.json"
# Both compute in float32; the issue's own limit.
SCORE_TOLERANCE = 1e-6
LEAST_CASES, LEAST_RUNS = 60, 150

DOCUMENT = json.loads(RECORDING.read_text(encoding="utf-8"))
SAMPLE = {entry.id: (entry.question, entry.context) for entry in read_squad(sample_squad_path()).questions}
CASES: list[dict[str, Any]] = DOCUMENT["cases"]


def texts(case: dict[str, Any]) -> tuple[str, str]:
    return SAMPLE[case["name"]] if case["name"] in SAMPLE else (case["question"], case["context"])


def recorded_logits(case: dict[str, Any]) -> list[WindowLogits]:
    return [
        (np.array(window["start"], dtype=np.float32), np.array(window["end"], dtype=np.float32))
        for window in case["windows"]
    ]


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json)


def test_the_recording_is_worth_its_name(windower: Windower) -> None:
    runs = [run for case in CASES for run in case["runs"]]
    assert DOCUMENT["versions"]["transformers"].startswith("4.57")
    assert DOCUMENT["hardware"]["cores"] > 0
    assert len(CASES) >= LEAST_CASES
    assert len(runs) >= LEAST_RUNS
    assert sum(len(case["windows"]) > 1 for case in CASES) >= 10
    assert {run["settings"].get("top_k", 1) for run in runs} >= {1, 3, 5, 10}
    assert {run["settings"].get("max_answer_len", 15) for run in runs} >= {1, 4, 15, 40}
    assert any(run["answers"][0]["answer"] == "" for run in runs), "no recorded case has the empty answer first"
    assert any(begins_inside_a_word(windower.windows(*texts(case))) for case in CASES)


def begins_inside_a_word(windows: Sequence[Window]) -> bool:
    words = {window.first_token + place: word for window in windows for place, word in enumerate(window.words.tolist())}
    return any(words.get(window.first_token - 1) == window.words[0] for window in windows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_windows_are_those_of_the_pipeline(case: dict[str, Any], windower: Windower) -> None:
    windows = windower.windows(*texts(case))
    assert [window.token_ids.tolist() for window in windows] == [window["input_ids"] for window in case["windows"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_answers_are_those_of_the_pipeline(case: dict[str, Any], windower: Windower) -> None:
    question, context = texts(case)
    windows = windower.windows(question, context)
    for run in case["runs"]:
        rules = PipelineRules(**run["settings"])
        found = pipeline_answers(context, windows, recorded_logits(case), rules)
        expected = [answer for answer in run["answers"] if answer["score"] > 0]  # see the module's docstring
        assert [(answer.text, answer.start, answer.end) for answer in found] == [
            (answer["answer"], answer["start"], answer["end"]) for answer in expected
        ], run["settings"]
        assert [answer.score for answer in found] == pytest.approx(
            [answer["score"] for answer in expected], abs=SCORE_TOLERANCE
        )


def test_the_cards_example_has_the_published_characters() -> None:
    [case] = [case for case in CASES if case["name"] == "card"]
    assert case["context"][96:134] == "a Polish composer and virtuoso pianist"


class RecordedSession(SessionBase):
    """Gives the recorded logits of the one question that is asked."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.by_ids = {
            tuple(window["input_ids"]): pair
            for window, pair in zip(case["windows"], recorded_logits(case), strict=True)
        }

    def run(self, batch: Batch) -> Logits:
        start, end = (np.zeros(batch.shape, dtype=np.float32) for _ in range(2))
        for row, window in enumerate(batch.windows):
            left, right = self.by_ids[tuple(window.token_ids.tolist())]
            start[row, : window.length], end[row, : window.length] = left, right
        return Logits(start, end)

    def close(self) -> None:
        pass


def test_the_question_answerer_in_compat_mode_gives_the_pipelines_answer(windower: Windower) -> None:
    case = max(CASES, key=lambda case: len(case["windows"]))
    question, context = texts(case)
    [window, *_] = windower.windows(question, context)
    expected = pipeline_answers(context, windower.windows(question, context), recorded_logits(case))
    with QuestionAnswerer(RecordedSession(case), windower) as answerer:
        assert answerer.answer(question=question, context=context, compat="transformers") == expected[0]
        five = answerer.best_answers(question=question, context=context, count=5, compat="transformers")
    assert len(five) == 5
    assert window.length == windower.max_length


def answered(logits: WindowLogits, windower: Windower, rules: PipelineRules) -> list[Answer]:
    [window] = windower.windows("Who?", "Ann met Bob.")
    return pipeline_answers("Ann met Bob.", [window], [logits], rules)


def weights(cls: float, context: list[float]) -> NDArray[np.float32]:
    """Logits of "Who?" on "Ann met Bob." whose softmax over [CLS] and context is in proportion to these weights.

    The question and the [SEP]s get far larger logits, which must not count.
    """
    return np.log(np.array([cls, 1e6, 1e6, 1e6, *context, 1e6], dtype=np.float64)).astype(np.float32)


def test_scores_are_products_of_probabilities_with_cls_in_the_sum(windower: Windower) -> None:
    """Worked by hand: tokens ann, met, bob, "."; starts 2, 1, 4, 1 of 10 and ends 1, 1, 5, 1 of 10, [CLS] 2."""
    logits = weights(2, [2, 1, 4, 1]), weights(2, [1, 1, 5, 1])
    found = answered(logits, windower, PipelineRules(top_k=3))
    assert [(answer.text, answer.start, answer.end) for answer in found] == [
        ("Bob", 8, 11),
        ("Ann met Bob", 0, 11),
        ("met Bob", 4, 11),
    ]
    assert [answer.score for answer in found] == pytest.approx([0.2, 0.1, 0.05], abs=SCORE_TOLERANCE)


def test_a_cls_that_the_question_spells_is_in_the_sum_and_is_no_answer(windower: Windower) -> None:
    """Starts and ends of [CLS], the second [CLS] and the four tokens: 2, 3 and 1, 1, 2, 1 of 10."""
    [window] = windower.windows("[CLS]?", "Ann met Bob.")
    assert (window.token_ids == window.token_ids[0]).nonzero()[0].tolist() == [0, 1]
    logits = np.log(np.array([2, 3, 1e6, 1e6, 1, 1, 2, 1, 1e6], dtype=np.float64)).astype(np.float32)
    rules = PipelineRules(top_k=40, handle_impossible_answer=True, max_answer_len=1)
    found = pipeline_answers("Ann met Bob.", [window], [(logits, logits)], rules)
    assert {answer.text: round(answer.score, 5) for answer in found} == {
        "": 0.04,
        "Bob": 0.04,
        "Ann": 0.01,
        "met": 0.01,
        ".": 0.01,
    }


def test_the_empty_answer_has_the_product_at_cls_and_can_win(windower: Windower) -> None:
    logits = weights(6, [1, 1, 1, 1]), weights(5, [1, 1, 2, 1])
    found = answered(logits, windower, PipelineRules(top_k=2, handle_impossible_answer=True))
    assert (found[0].text, found[0].start, found[0].end) == ("", 0, 0)
    assert found[0].score == pytest.approx(0.3, abs=SCORE_TOLERANCE)
    assert answered(logits, windower, PipelineRules())[0].text != ""


@pytest.mark.parametrize("order", [1, -1])
def test_the_empty_answer_has_the_smallest_probability_of_any_window(windower: Windower, order: int) -> None:
    [window] = windower.windows("Who?", "Ann met Bob.")
    later = replace(window, first_token=4)
    often, seldom = weights(6, [1, 1, 1, 1]), weights(1, [1, 1, 7, 1])
    found = pipeline_answers(
        "Ann met Bob.",
        [window, later],
        [(often, often), (seldom, seldom)][::order],
        PipelineRules(top_k=40, handle_impossible_answer=True),
    )
    [empty] = [answer for answer in found if answer.text == ""]
    assert empty.score == pytest.approx((1 / 11) ** 2, abs=SCORE_TOLERANCE)


def test_equal_texts_are_one_answer_whatever_their_case(windower: Windower) -> None:
    context = "Ann ANN"
    [window] = windower.windows("Who?", context)
    start = np.log(np.array([2, 1, 1, 1, 5, 3, 1], dtype=np.float32))
    rules = PipelineRules(top_k=3, max_answer_len=1)
    found = pipeline_answers(context, [window], [(start, start)], rules)
    assert [(answer.text, answer.start, answer.end) for answer in found] == [("Ann", 0, 3)]
    assert found[0].score == pytest.approx(0.25 + 0.09, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize("impossible", [False, True])
def test_logits_that_are_not_numbers_are_an_error(windower: Windower, impossible: bool) -> None:
    [window] = windower.windows("Who?", "Ann met Bob.")
    nan = np.full(window.length, np.nan, dtype=np.float32)
    with pytest.raises(BackendError, match="no finite logits"):
        answered((nan, nan), windower, PipelineRules(handle_impossible_answer=impossible))


def test_the_order_of_windows_does_not_matter(windower: Windower) -> None:
    """The first of several places with the same text is given, also when windows come back in another order."""
    for case in [case for case in CASES if len(case["windows"]) > 1]:
        question, context = texts(case)
        windows, logits = windower.windows(question, context), recorded_logits(case)
        rules = PipelineRules(top_k=5)
        forward = pipeline_answers(context, windows, logits, rules)
        backward = pipeline_answers(context, windows[::-1], logits[::-1], rules)
        assert backward == forward


def test_a_window_that_begins_inside_a_word_keeps_to_its_own_tokens(windower: Windower) -> None:
    [window] = windower.windows("Who?", "unbelievableness")
    cut = Window(
        window.example,
        np.delete(window.token_ids, window.context_start),
        window.context_start,
        window.offsets[1:],
        first_token=1,
        words=window.words[1:],
    )
    ones = np.ones(cut.length, dtype=np.float32)
    [answer] = pipeline_answers("unbelievableness", [cut], [(ones, ones)])
    assert answer.start == int(window.offsets[1, 0])
    assert answer.end == len("unbelievableness")
    assert replace(answer, score=0.0).text == "unbelievableness"[answer.start :]


@pytest.mark.parametrize("setting", ["top_k", "max_answer_len"])
def test_rules_must_be_positive(setting: str) -> None:
    settings: dict[str, Any] = {setting: 0}
    with pytest.raises(InputError, match="must be at least 1"):
        PipelineRules(**settings)
