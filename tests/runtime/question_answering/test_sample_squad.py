"""The embedded sample set keeps the SQuAD v1.1 format, exact offsets, and the kinds of text it was written to hold."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest
from tokenizers import Tokenizer

import densepack_runtime

SAMPLE = Path(densepack_runtime.__file__).parent / "question_answering" / "sample_squad.json"
MIN_PARAGRAPHS = 20
MIN_QUESTIONS = 100
# Above 900 words a context has over 1,000 WordPiece tokens: at least four windows of 384 tokens at a stride of 128.
LONG_CONTEXT_WORDS = 900
MIN_LONG_CONTEXTS = 3
# The default of SpanRules.max_answer_tokens: a longer gold answer could never be given.
MAX_ANSWER_TOKENS = 30
CJK = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


class AnswerJson(TypedDict):
    text: str
    answer_start: int


class QuestionJson(TypedDict):
    id: str
    question: str
    answers: list[AnswerJson]


class ParagraphJson(TypedDict):
    context: str
    qas: list[QuestionJson]


class ArticleJson(TypedDict):
    title: str
    paragraphs: list[ParagraphJson]


class SquadJson(TypedDict):
    version: str
    data: list[ArticleJson]


@dataclass(frozen=True)
class Gold:
    """One gold answer with what it is found in."""

    question_id: str
    context: str
    text: str
    start: int


@pytest.fixture(scope="module")
def sample() -> SquadJson:
    content: SquadJson = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def paragraphs(sample: SquadJson) -> list[ParagraphJson]:
    return [paragraph for article in sample["data"] for paragraph in article["paragraphs"]]


@pytest.fixture(scope="module")
def questions(paragraphs: list[ParagraphJson]) -> list[QuestionJson]:
    return [question for paragraph in paragraphs for question in paragraph["qas"]]


@pytest.fixture(scope="module")
def golds(paragraphs: list[ParagraphJson]) -> list[Gold]:
    return list(_golds(paragraphs))


def _golds(paragraphs: list[ParagraphJson]) -> Iterator[Gold]:
    for paragraph in paragraphs:
        for question in paragraph["qas"]:
            for answer in question["answers"]:
                yield Gold(question["id"], paragraph["context"], answer["text"], answer["answer_start"])


def _has_letters_of(script: str, text: str) -> bool:
    return any(unicodedata.name(character, "").startswith(f"{script} LETTER") for character in text)


def _has_astral(text: str) -> bool:
    return any(ord(character) > 0xFFFF for character in text)


def test_format_is_squad_1_1(sample: SquadJson) -> None:
    assert set(sample) == {"version", "data"}
    assert sample["version"] == "1.1"
    for article in sample["data"]:
        assert set(article) == {"title", "paragraphs"}
        assert article["title"]
        for paragraph in article["paragraphs"]:
            assert set(paragraph) == {"context", "qas"}
            for question in paragraph["qas"]:
                assert set(question) == {"id", "question", "answers"}
                assert all(set(answer) == {"text", "answer_start"} for answer in question["answers"])


def test_file_is_utf8_that_people_can_read() -> None:
    raw = SAMPLE.read_bytes()
    assert b"\\u" not in raw
    assert b"\r" not in raw
    assert raw.endswith(b"}\n")


def test_large_enough(paragraphs: list[ParagraphJson], questions: list[QuestionJson]) -> None:
    assert len(paragraphs) >= MIN_PARAGRAPHS
    assert len(questions) >= MIN_QUESTIONS


def test_ids_are_unique_and_follow_the_order(paragraphs: list[ParagraphJson], questions: list[QuestionJson]) -> None:
    expected = [
        f"sample-{number:03d}-{index:02d}"
        for number, paragraph in enumerate(paragraphs, start=1)
        for index in range(1, len(paragraph["qas"]) + 1)
    ]
    ids = [question["id"] for question in questions]
    assert ids == expected
    assert len(set(ids)) == len(ids)


def test_contexts_and_questions_are_not_repeated(
    paragraphs: list[ParagraphJson], questions: list[QuestionJson]
) -> None:
    assert len({paragraph["context"] for paragraph in paragraphs}) == len(paragraphs)
    assert len({question["question"] for question in questions}) == len(questions)


def test_texts_have_no_stray_blanks(paragraphs: list[ParagraphJson], questions: list[QuestionJson]) -> None:
    texts = [paragraph["context"] for paragraph in paragraphs] + [question["question"] for question in questions]
    faulty = [text[:60] for text in texts if not text or text != text.strip() or re.search(r"[ \t]{2}|\n\n", text)]
    assert not faulty


def test_offsets_are_exact(golds: list[Gold]) -> None:
    wrong = [gold for gold in golds if gold.context[gold.start : gold.start + len(gold.text)] != gold.text]
    assert not wrong, [(gold.question_id, gold.text, gold.start) for gold in wrong]
    assert all(gold.text and gold.text == gold.text.strip() and gold.start >= 0 for gold in golds)


def test_every_question_has_distinct_gold_answers(questions: list[QuestionJson]) -> None:
    for question in questions:
        texts = [answer["text"] for answer in question["answers"]]
        assert texts, question["id"]
        assert len(set(texts)) == len(texts), question["id"]
    several = sum(len(question["answers"]) > 1 for question in questions)
    assert several >= len(questions) // 2


def test_long_contexts_are_asked_about_from_beginning_to_end(paragraphs: list[ParagraphJson]) -> None:
    long = [paragraph for paragraph in paragraphs if len(paragraph["context"].split()) > LONG_CONTEXT_WORDS]
    assert len(long) >= MIN_LONG_CONTEXTS
    for paragraph in long:
        length = len(paragraph["context"])
        thirds = {3 * question["answers"][0]["answer_start"] // length for question in paragraph["qas"]}
        assert thirds == {0, 1, 2}


def test_short_contexts_are_there(paragraphs: list[ParagraphJson]) -> None:
    assert any(20 < len(paragraph["context"].split()) < 70 for paragraph in paragraphs)


def test_accents_in_contexts_and_answers(paragraphs: list[ParagraphJson], golds: list[Gold]) -> None:
    contexts = "\n".join(paragraph["context"] for paragraph in paragraphs)
    assert all(name in contexts for name in ("Frédéric", "Ångström", "São"))
    assert any(re.search("[À-ÖØ-öø-ÿĀ-ž]", gold.text) for gold in golds)


def test_an_answer_in_decomposed_letters(golds: list[Gold]) -> None:
    decomposed = [gold for gold in golds if unicodedata.normalize("NFC", gold.text) != gold.text]
    assert decomposed, "some tool has normalised the letters of the sample set; restore the file"


def test_cjk_in_contexts_questions_and_answers(paragraphs: list[ParagraphJson], golds: list[Gold]) -> None:
    contexts = [paragraph["context"] for paragraph in paragraphs]
    mainly = [context for context in contexts if 2 * len(CJK.findall(context)) > len(context)]
    mixed = [context for context in contexts if CJK.search(context) and context not in mainly]
    assert mainly
    assert len(mixed) >= 3
    assert any(CJK.search(question["question"]) for paragraph in paragraphs for question in paragraph["qas"])
    assert any(CJK.search(gold.text) for gold in golds)
    assert any(not CJK.search(gold.text) for gold in golds if gold.context in mainly)


@pytest.mark.parametrize("script", ["ARABIC", "HEBREW"])
def test_right_to_left_answers(golds: list[Gold], script: str) -> None:
    assert any(_has_letters_of(script, gold.text) for gold in golds)


def test_answers_behind_astral_characters(golds: list[Gold]) -> None:
    # Offsets counted in UTF-16 code units or in bytes point elsewhere for these answers.
    behind = {gold.question_id for gold in golds if _has_astral(gold.context[: gold.start])}
    assert len(behind) >= 5
    assert any(_has_astral(gold.text) for gold in golds)


def test_currencies_units_and_quotation_marks_in_answers(golds: list[Gold]) -> None:
    answers = "\n".join(gold.text for gold in golds)
    assert all(mark in answers for mark in ("£", "€", "°C", "km", "%", '"', "-"))


def test_repeated_answers_point_at_the_meant_occurrence(golds: list[Gold]) -> None:
    repeated = [gold for gold in golds if gold.context.count(gold.text) > 1]
    not_the_first = [gold for gold in repeated if gold.context.index(gold.text) != gold.start]
    assert len({gold.question_id for gold in repeated}) >= 10
    assert len({gold.question_id for gold in not_the_first}) >= 3


def test_question_words_are_varied(questions: list[QuestionJson]) -> None:
    text = " ".join(question["question"].lower() for question in questions)
    counts = {
        word: len(re.findall(rf"\b{word}\b", text)) for word in ("who", "what", "when", "where", "why", "how many")
    }
    assert min(counts.values()) >= 5, counts


def test_answers_stay_within_the_default_span_limit(golds: list[Gold], default_tokenizer_json: str) -> None:
    tokenizer = Tokenizer.from_str(default_tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    shortest: dict[str, int] = {}
    for gold in golds:
        tokens = len(tokenizer.encode(gold.text, add_special_tokens=False).ids)
        shortest[gold.question_id] = min(tokens, shortest.get(gold.question_id, tokens))
    assert max(shortest.values()) <= MAX_ANSWER_TOKENS
