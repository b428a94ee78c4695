"""The Python model in this process: its answers are the library's, and what fails, fails alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densepack_export.triton.repository import TritonOptions, write_repository
from densepack_runtime.bundle import Bundle
from densepack_runtime.question_answering.answers import Answer, SpanRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits
from tests.export.triton.fake_triton import FakeError, FakeResponse, FakeTriton, Request, TritonModelException

# One window, several windows (32 tokens each, 8 shared), and characters of more than one byte.
LONG = "The tower was built by Anna Berg near the old harbour of Oslo in the year 1850. " * 6
PAIRS = [("Who built it?", "It was built by Anna Berg."), ("When?", LONG), ("Wo?", "In Zürich 🏔, sagt Berg.")]
MANY = [(f"{question} {number}", context) for number in range(8) for question, context in PAIRS]

Execute = Callable[[Sequence[Request]], list[FakeResponse]]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> FakeTriton:
    fake = FakeTriton()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    return fake


@pytest.fixture
def load(bundle: Path, tmp_path: Path, triton: FakeTriton) -> Callable[..., Execute]:
    """Write a repository, and load its model as Triton's Python backend would."""

    def initialised(**options: Any) -> Execute:
        repository = tmp_path / "repository"
        write_repository(Bundle.open(bundle), repository, TritonOptions(device="cpu", **options))
        folder = repository / "question_answering"
        specification = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_repository": str(folder), "model_version": "1"})
        return model.execute  # type: ignore[no-any-return]

    return initialised


def library(bundle: Path, pairs: Sequence[tuple[str, str]], rules: SpanRules | None = None) -> list[Answer]:
    opened = Bundle.open(bundle)
    windower = Windower(opened.tokenizer_json, max_length=32, doc_stride=8)
    return list(QuestionAnswerer(FakeSession(), windower, rules=rules).answer_many(pairs))


def answers(response: FakeResponse) -> list[Answer]:
    columns = [response.column(name) for name in ("answer", "start", "end", "score")]
    return [Answer(text.decode(), start, end, score) for text, start, end, score in zip(*columns, strict=True)]


def without_logits(found: Sequence[Answer]) -> list[Answer]:
    return [Answer(answer.text, answer.start, answer.end, answer.score) for answer in found]


def test_answers_are_those_of_the_library(load: Callable[..., Execute], bundle: Path, triton: FakeTriton) -> None:
    requests = [Request([pair]) for pair in MANY]
    responses = load()(requests)
    assert [answer for response in responses for answer in answers(response)] == without_logits(library(bundle, MANY))
    assert set(triton.asked) == {"question_answering_engine"}


def test_windows_of_all_requests_share_batches(load: Callable[..., Execute], triton: FakeTriton) -> None:
    load()([Request([pair]) for pair in MANY])
    shapes = [batch.shape for batch in triton.batches]
    assert sum(rows for rows, _ in shapes) > len(MANY)  # the long ones have several windows
    assert len(shapes) <= 3
    assert all(rows <= 64 and rows * length <= 2048 for rows, length in shapes)


def test_a_request_may_have_several_questions(load: Callable[..., Execute], bundle: Path) -> None:
    [response] = load()([Request(PAIRS)])
    assert answers(response) == without_logits(library(bundle, PAIRS))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("", "Berg.")], "the question is empty: it has no words ('')"),
        ([PAIRS[0], ("Who?", " ")], "question 2 of 2: the context is empty: it has no words (' ')"),
        ([(b"Who\xff?", "Berg.")], "question and context must be UTF-8: 'utf-8' codec can't decode byte 0xff"),
        ([("who " * 40, "Berg.")], "the question has 40 tokens; beside this context at most"),
    ],
)
def test_a_bad_question_fails_alone(
    load: Callable[..., Execute], bundle: Path, pairs: list[tuple[str | bytes, str | bytes]], message: str
) -> None:
    before, bad, after = load()([Request([PAIRS[0]]), Request(pairs), Request([PAIRS[1]])])
    assert message in bad.error().message()
    assert bad.error().code == FakeError.INVALID_ARG
    assert [*answers(before), *answers(after)] == without_logits(library(bundle, PAIRS[:2]))


def test_nothing_is_computed_for_a_cancelled_request(load: Callable[..., Execute], triton: FakeTriton) -> None:
    [response] = load()([Request(PAIRS, cancelled=True)])
    assert response.error().message() == "the request was cancelled"
    assert triton.batches == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("out of memory"), "the model question_answering_engine failed: out of memory"),
        (TritonModelException("is not ready"), "the model question_answering_engine failed: is not ready"),
    ],
)
def test_a_batch_that_fails_costs_only_its_own_questions(
    load: Callable[..., Execute], bundle: Path, triton: FakeTriton, error: Exception, message: str
) -> None:
    def fails_once(batch: Batch) -> Logits:
        if len(triton.batches) == 1:
            raise error
        return made_up_logits(batch)

    triton.answer = fails_once
    # Longest first: 64 windows of the long context are the first batch, the short question is in the last one.
    long, short = load()([Request([("When?", LONG * 12)]), Request([PAIRS[0]])])
    assert triton.batches[0].shape[0] == 64
    assert (long.error().message(), long.error().code) == (message, FakeError.INTERNAL)
    assert answers(short) == without_logits(library(bundle, PAIRS[:1]))


def test_logits_that_are_no_numbers_cost_one_question(
    load: Callable[..., Execute], bundle: Path, triton: FakeTriton
) -> None:
    def overflowing(batch: Batch) -> Logits:
        logits = made_up_logits(batch)
        longest = int(np.argmax(batch.attention_mask.sum(axis=1)))
        logits.start[longest] = np.nan
        return logits

    triton.answer = overflowing
    damaged, whole = load()([Request([("Who built the old tower?", PAIRS[0][1])]), Request([("Who?", "Berg.")])])
    assert "no finite logits" in damaged.error().message()
    assert answers(whole) == without_logits(library(bundle, [("Who?", "Berg.")]))


def test_rules_come_from_the_settings(load: Callable[..., Execute], bundle: Path) -> None:
    rules = SpanRules(null_threshold=-1000.0)
    responses = load(rules=rules)([Request([pair]) for pair in PAIRS])
    found = [answer for response in responses for answer in answers(response)]
    assert [answer.text for answer in found] == ["", "", ""]
    assert found == without_logits(library(bundle, PAIRS, rules))


def test_questions_are_cut_where_that_was_asked_for(load: Callable[..., Execute]) -> None:
    [response] = load(truncate_question=True)([Request([("who " * 40, "Berg.")])])
    assert len(answers(response)) == 1


def test_settings_are_what_the_bundle_was_built_with(load: Callable[..., Execute], tmp_path: Path) -> None:
    load()
    text = (tmp_path / "repository" / "question_answering" / "1" / "settings.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "engine": "question_answering_engine",
        "inputs": ["input_ids", "attention_mask", "token_type_ids"],
        "windows": {"max_length": 32, "doc_stride": 8},
        "batches": {"token_budget": 2048, "length_multiple": 1, "max_batch": 64},
        "rules": {"max_answer_tokens": 30, "n_best": 20, "null_threshold": None},
        "truncate_question": False,
    }
