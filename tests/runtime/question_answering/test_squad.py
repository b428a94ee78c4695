"""SQuAD files are read or refused with the place of the fault; the metric is that of the official scripts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.squad import (
    ScorePart,
    SquadDataset,
    SquadQuestion,
    exact_match,
    f1,
    read_squad,
    sample_squad_path,
    score_predictions,
    write_predictions,
)

# torchmetrics adds up in float32: a relative rounding error of 6e-8 a question, of at most 1,000 questions, in percent.
TORCHMETRICS_TOLERANCE = 6e-3

# Worked by hand after the rules of the official v2.0 script: (prediction, gold answers, exact match, F1).
HAND_WORKED: list[tuple[str, tuple[str, ...], int, Fraction | int]] = [
    ("Paris", ("Paris",), 1, 1),
    ("paris", ("Paris",), 1, 1),
    ("the Paris", ("Paris",), 1, 1),
    ("Paris.", ("Paris",), 1, 1),
    ("\n Paris \t", ("Paris",), 1, 1),
    ("Paris, France", ("Paris",), 0, Fraction(2, 3)),
    ("Paris", ("Paris, France",), 0, Fraction(2, 3)),
    ("London", ("Paris",), 0, 0),
    ("", ("Paris",), 0, 0),
    ("the", ("Paris",), 0, 0),  # normalises to nothing
    ("", (), 1, 1),
    ("Paris", (), 0, 0),
    ("the", (), 1, 1),
    ("!!!", (), 1, 1),
    ("", ("the",), 1, 1),  # a gold that normalises to nothing is left out, and then there is none
    ("Paris", ("a",), 0, 0),
    ("A", ("a",), 1, 1),
    ("Paris", ("the", "Paris"), 1, 1),
    ("the", ("the", "Paris"), 0, 0),  # only the golds that say something count
    ("Paris", ("London", "Paris"), 1, 1),  # the best gold counts
    ("Paris France", ("London", "Paris"), 0, Fraction(2, 3)),
    ("one two three four", ("three four five six",), 0, Fraction(1, 2)),
    ("one one two", ("one two two",), 0, Fraction(2, 3)),  # words count as often as both have them
    ("two one", ("one two",), 0, 1),  # order does not matter to F1
    ("new york city", ("york",), 0, Fraction(1, 2)),
    ("in the city of new york", ("new york city",), 0, Fraction(3, 4)),
    ("one two three", ("one two three four five six",), 0, Fraction(2, 3)),
    ("The  Beatles", ("Beatles",), 1, 1),
    ("an apple a day", ("apple day",), 1, 1),
    ("theater", ("ater",), 0, 0),  # articles are whole words
    ("U.S.", ("US",), 1, 1),
    ("twenty-one", ("twentyone",), 1, 1),
    ("twenty one", ("twenty-one",), 0, 0),
    ("1,000", ("1000",), 1, 1),
    ("$5", ("5",), 1, 1),
    ("€5", ("5",), 0, 0),  # only ASCII punctuation is removed
    ("“Paris”", ("Paris",), 0, 0),
    ("Café", ("café",), 1, 1),
    ("cafe", ("café",), 0, 0),
    ("a\u00a0cat", ("cat",), 1, 1),
    ("東京", ("東京",), 1, 1),
]


def make_question(identity: str, answers: Sequence[str], *, impossible: bool = False) -> SquadQuestion:
    return SquadQuestion(identity, "Where?", "…", tuple(answers), (0,) * len(answers), impossible)


def make_dataset(golds: Sequence[Sequence[str]], version: str = "v2.0") -> SquadDataset:
    return SquadDataset(version, tuple(make_question(str(n), answers) for n, answers in enumerate(golds)), "")


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": "q", "question": "Where?", "answers": [{"text": "here", "answer_start": 3}]} | changes


def document(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"paragraphs": [{"context": "It is here.", "qas": list(entries)}]}]} | changes


def row(**changes: Any) -> dict[str, Any]:
    """A question as the hub's data sets have it."""
    answers = {"text": ["here"], "answer_start": [6]}
    return {"id": "q", "title": "t", "context": "It is here.", "question": "Where?", "answers": answers} | changes


def lines(*values: object) -> str:
    return "\n".join(map(json.dumps, values))


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


NESTED = document(
    entry(answers=[{"text": "here", "answer_start": 6}]), entry(id="r", answers=[{"text": "is", "answer_start": 3}])
)


def test_reading(tmp_path: Path) -> None:
    path = written(tmp_path, document(entry(), entry(id="r", answers=[], is_impossible=True), version="v2.0"))
    dataset = read_squad(path)
    assert dataset.version == "v2.0"
    assert dataset.allows_no_answer
    assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.questions == (
        SquadQuestion("q", "Where?", "It is here.", ("here",), (3,)),
        SquadQuestion("r", "Where?", "It is here.", (), (), is_impossible=True),
    )


@pytest.mark.parametrize("identity", [5, 10**30, -1])
def test_an_integer_id_is_its_text(tmp_path: Path, identity: int) -> None:
    [question] = read_squad(written(tmp_path, document(entry(id=identity)))).questions
    assert question.id == str(identity)


ROWS = [row(), row(id="r", answers={"text": ["is"], "answer_start": [3]})]


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.1", "data": ROWS},
        lines(*ROWS),
        f"\n{lines(*ROWS)}\n\n",
        lines(*ROWS).replace("\n", "\r\n"),
        [row(answers=[{"text": "here", "answer_start": 6}], is_impossible=None), ROWS[1]],
        [NESTED["data"][0]],
    ],
    ids=["list", "data", "version", "lines", "blank lines", "CR LF", "official answers", "list of articles"],
)
def test_the_hubs_forms_read_as_the_official_one(tmp_path: Path, content: object) -> None:
    official = read_squad(written(tmp_path, NESTED)).questions
    assert read_squad(written(tmp_path, content)).questions == official
    assert read_squad(written(tmp_path, lines(row()))).questions == official[:1]


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path) -> None:
    rows = [row(context="It\u2028is here.", question="Where\x85?"), row(id="r")]
    text = "\n".join(json.dumps(each, ensure_ascii=False) for each in rows)
    assert [question.context for question in read_squad(written(tmp_path, text)).questions] == [
        "It\u2028is here.",
        "It is here.",
    ]


def test_rows_without_an_answer_are_impossible_where_others_have_one(tmp_path: Path) -> None:
    empty: dict[str, list[object]] = {"text": [], "answer_start": []}
    rows = [row(), row(id="r", answers=empty)]
    dataset = read_squad(written(tmp_path, rows))
    assert [question.is_impossible for question in dataset.questions] == [False, True]
    assert dataset.allows_no_answer
    told = read_squad(written(tmp_path, {"version": "1.1", "data": rows}))
    assert not told.allows_no_answer
    said = read_squad(written(tmp_path, [rows[0], rows[1] | {"is_impossible": False}]))
    assert not said.allows_no_answer


@pytest.mark.parametrize(
    "content",
    [
        document(entry(answers=[])),
        document({"id": "q", "question": "Where?"}),
        document(entry(answers=None), version="v2.0"),
        [row(answers={"text": [], "answer_start": []}), row(id="r", answers=None)],
    ],
)
def test_a_file_without_answers_is_a_test_set(tmp_path: Path, content: object) -> None:
    assert read_squad(written(tmp_path, content)).is_test_set
    assert not read_squad(written(tmp_path, NESTED)).is_test_set
    assert not read_squad(written(tmp_path, document(entry(answers=[], is_impossible=True)))).is_test_set


def test_lines_of_question_and_context_are_named_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    bare = '{"question": "Where?", "context": "Here."}'
    path.write_text(f"{bare}\n\n{bare}\n", encoding="utf-8")
    assert [question.id for question in read_squad(path).questions] == ["line 1", "line 3"]
    path.write_text(bare, encoding="utf-8")
    assert [question.id for question in read_squad(path).questions] == ["line 1"]


def test_a_compressed_file_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "squad.json.gz"
    path.write_bytes(gzip.compress(sample_squad_path().read_bytes()))
    packed, plain = read_squad(path), read_squad(sample_squad_path())
    assert packed.questions == plain.questions
    assert packed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != plain.sha256


def test_limit_reads_the_first_questions_and_hashes_the_whole_file() -> None:
    whole, part = read_squad(sample_squad_path()), read_squad(sample_squad_path(), limit=3)
    assert part.questions == whole.questions[:3]
    assert part.sha256 == whole.sha256
    assert read_squad(sample_squad_path(), limit=10**6) == whole
    with pytest.raises(InputError, match="limit must be at least 1"):
        read_squad(sample_squad_path(), limit=0)


def test_limit_does_not_look_at_the_rest(tmp_path: Path) -> None:
    """1,000 of 10,570 questions take a third of the time; what a later question is cannot matter."""
    path = tmp_path / "rows.json"
    good = {"id": "1", "question": "Who?", "context": "Anna.", "answers": {"text": ["Anna"], "answer_start": [0]}}
    path.write_text(json.dumps([good, {**good, "id": 2.5}]), encoding="utf-8")
    assert len(read_squad(path, limit=1).questions) == 1
    with pytest.raises(InputError, match="id must be a string"):
        read_squad(path)


@pytest.mark.shared
def test_the_real_development_set(shared_data: Path) -> None:
    dataset = read_squad(shared_data / "squad" / "dev-v1.1.json")
    assert len(dataset.questions) == 10_570
    assert not dataset.allows_no_answer
    assert score_predictions(dataset, {q.id: q.answers[-1] for q in dataset.questions}).exact_match == 100


@pytest.mark.parametrize(
    ("version", "impossible", "expected"),
    [
        ("1.1", False, False),
        ("v2.0", False, True),
        ("V2.0", False, True),
        ("2.0", False, True),
        ("", True, True),
        ("", False, False),
    ],
)
def test_which_rules_a_file_has(version: str, impossible: bool, expected: bool) -> None:
    """A part of a v2.0 file can be without impossible questions and is v2.0 all the same."""
    dataset = SquadDataset(version, (make_question("q", ["here"], impossible=impossible),), "")
    assert dataset.allows_no_answer == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (3, "the document must be an object, it is 3"),
        ([], "has no questions"),
        ([3], r"\[0\] must be an object, it is 3"),
        ({"version": "1.1"}, "data must be a list, it is missing"),
        (document(data=[]), "has no questions"),
        (document(), "has no questions"),
        (document(data=[3]), r"data\[0\] must be an object, it is 3"),
        (document(data=[{"paragraphs": [{"qas": []}]}]), r"data\[0\].paragraphs\[0\].context must be a string"),
        (document(data=[{"paragraphs": [{"context": "…"}]}]), r"data\[0\].paragraphs\[0\].qas must be a list"),
        (document(entry(), entry(id=5.5)), r"data\[0\].paragraphs\[0\].qas\[1\].id must be a string, it is 5.5"),
        (document(entry(id=True)), "id must be a string, it is True"),
        (document(entry(id="\ud800")), r"id must be valid Unicode, it is '\\ud800'"),
        (document(entry(), entry(id="5"), entry(id=5)), "1 question ids are used twice, the first is '5'"),
        (document(entry(question=None)), r"qas\[0\].question must be a string, it is missing"),
        (document(entry(answers="here")), r"qas\[0\].answers must be a list, it is 'here'"),
        (document(entry(answers=["here"])), r"qas\[0\].answers\[0\] must be an object, it is 'here'"),
        (document(entry(answers=[{"text": "x"}])), r"answers\[0\].answer_start must be a whole number, it is missing"),
        (document(entry(answers=[{"text": "x", "answer_start": True}])), "must be a whole number, it is True"),
        (document(entry(is_impossible="no")), r"qas\[0\].is_impossible must be true or false, it is 'no'"),
        (document(entry(), entry(), entry(id="r")), "1 question ids are used twice, the first is 'q'"),
        ([row(context=5)], r"\[0\].context must be a string, it is 5"),
        ([row(answers={"text": ["x"]})], r"\[0\].answers.answer_start must be a list, it is missing"),
        ([row(answers={"text": ["x"], "answer_start": []})], r"must be as many starts as texts \(0 and 1\), it is"),
        ([row(answers={"text": ["x"], "answer_start": ["0"]})], r"answers.answer_start\[0\] must be a whole number"),
        ({"data": [row(question=None)]}, r"data\[0\].question must be a string, it is missing"),
        (lines(row(), 3), "line 2 must be an object, it is 3"),
        (lines(row(), row(id=None)), "line 2.id must be a string, it is missing"),
        ("\n\n" + lines(row(), 3), "line 4 must be an object, it is 3"),
        (f"{json.dumps(NESTED, indent=1)} x", "is not JSON: Extra data"),
        ("[] []", "is not JSON: Extra data"),
        (lines(row()) + "\n{", "is not JSON: line 2: Expecting property name"),
        ("{}\n{}", "line 1.paragraphs must be a list, it is missing"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_squad(written(tmp_path, content))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress(os.urandom(4000))
    (tmp_path / "short.json.gz").write_bytes(packed[:-100])
    (tmp_path / "broken.json.gz").write_bytes(packed[:10] + b"\xff" * 50 + packed[60:])
    (tmp_path / "plain.json.gz").write_bytes(b"{}")
    (tmp_path / "folder.json").mkdir()
    for name in ("none.json", "short.json.gz", "broken.json.gz", "plain.json.gz", "folder.json"):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_squad(tmp_path / name)
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(InputError, match="is not JSON"):
        read_squad(tmp_path / "latin.json")


@pytest.mark.parametrize(("prediction", "golds", "exact", "overlap"), HAND_WORKED)
def test_hand_worked_cases_of_v2(prediction: str, golds: tuple[str, ...], exact: int, overlap: Fraction | int) -> None:
    score = score_predictions(make_dataset([golds]), {"0": prediction})
    assert score.exact_match == 100 * exact
    assert score.f1 == pytest.approx(100 * float(overlap), abs=1e-12)


def test_the_parts_of_v2_are_weighted_by_their_questions() -> None:
    predictions = {str(number): case[0] for number, case in enumerate(HAND_WORKED)}
    score = score_predictions(make_dataset([case[1] for case in HAND_WORKED]), predictions)
    answered = [case for case in HAND_WORKED if case[1]]
    unanswered = [case for case in HAND_WORKED if not case[1]]
    assert score.count == len(HAND_WORKED)
    for part, cases in ((score.has_answer, answered), (score.no_answer, unanswered)):
        assert part is not None
        assert part.count == len(cases)
        assert part.exact_match == pytest.approx(100 * sum(case[2] for case in cases) / len(cases))
        assert part.f1 == pytest.approx(100 * float(sum(case[3] for case in cases)) / len(cases))
    assert score.f1 == pytest.approx(100 * float(sum(case[3] for case in HAND_WORKED)) / len(HAND_WORKED))


def test_a_part_without_questions_is_left_out() -> None:
    score = score_predictions(make_dataset([["Paris"]]), {"0": "Paris"})
    assert score.has_answer == ScorePart(100, 100, 1)
    assert score.no_answer is None
    assert set(score.as_dict()) == {"exact_match", "f1", "count", "has_answer"}


def test_v1_gives_nothing_for_two_empty_texts_where_v2_gives_all() -> None:
    """The one difference between the scripts on answers alone: F1 of texts that normalise to nothing."""
    assert score_predictions(make_dataset([["the"]], "1.1"), {"0": "a"}).f1 == 0
    assert score_predictions(make_dataset([["the"]], "v2.0"), {"0": "a"}).f1 == 100


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="no questions to score"):
        score_predictions(make_dataset([]), {})
    with pytest.raises(InputError, match="2 of 3 questions have no prediction, first '1'"):
        score_predictions(make_dataset([["x"]] * 3), {"0": "x"})
    with pytest.raises(
        InputError, match="1 of 2 questions have no gold answer, first '1', and the file is not SQuAD 2"
    ):
        score_predictions(make_dataset([["x"], []], "1.1"), {"0": "x", "1": ""})


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_a_question_that_failed_counts_as_wrong(version: str) -> None:
    golds = [["x"], ["y"]] if version == "1.1" else [["x"], []]
    score = score_predictions(make_dataset(golds, version), {"0": "x"}, failed={"1"})
    assert (score.exact_match, score.f1, score.count, score.failed) == (50, 50, 2, 1)
    if version == "v2.0":
        assert score.no_answer == ScorePart(0, 0, 1)


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_metric_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= f1(one, other) == f1(other, one) <= 1
    assert exact_match(one, other) == exact_match(other, one)
    assert exact_match(one, one) == 1


def disturbed(question: SquadQuestion, rng: random.Random) -> str:
    """A prediction such as models give: the gold answer, moved, cut, lengthened, changed in case, or another text."""
    start, text = question.answer_starts[0], question.answers[0]
    kind = rng.randrange(6)
    if kind == 0:
        return text
    if kind == 1:
        return question.context[max(0, start - rng.randrange(20)) : start + len(text) + rng.randrange(20)]
    if kind == 2:
        return text[: len(text) // 2]
    if kind == 3:
        return f"The {text.upper()}!"
    return "" if kind == 4 else " ".join(rng.sample(question.context.split(), k=1))


def torchmetrics_score(dataset: SquadDataset, predictions: dict[str, str]) -> dict[str, float]:
    from torchmetrics.text import SQuAD

    metric = SQuAD()
    metric.update(
        [{"id": question.id, "prediction_text": predictions[question.id]} for question in dataset.questions],
        [
            {"id": q.id, "answers": {"text": list(q.answers), "answer_start": list(q.answer_starts)}}
            for q in dataset.questions
        ],
    )
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("seed", range(3))
def test_v1_equals_torchmetrics(seed: int) -> None:
    dataset = read_squad(sample_squad_path())
    compare_with_torchmetrics(dataset, seed)


@pytest.mark.shared
def test_v1_equals_torchmetrics_on_real_questions(shared_data: Path) -> None:
    compare_with_torchmetrics(read_squad(shared_data / "squad" / "dev-v1.1.json", limit=1000), seed=0)


def compare_with_torchmetrics(dataset: SquadDataset, seed: int) -> None:
    rng = random.Random(seed)
    predictions = {question.id: disturbed(question, rng) for question in dataset.questions}
    expected = torchmetrics_score(dataset, predictions)
    score = score_predictions(dataset, predictions)
    assert score.exact_match == pytest.approx(expected["exact_match"], abs=TORCHMETRICS_TOLERANCE)
    assert score.f1 == pytest.approx(expected["f1"], abs=TORCHMETRICS_TOLERANCE)
    assert 10 < score.exact_match < score.f1 < 90, "predictions that are all right or all wrong show nothing"


def test_predictions_file_is_what_the_official_script_reads(tmp_path: Path) -> None:
    predictions = {"a": "Frédéric “Chopin”", "b": "", "c": "東京 🎹"}
    write_predictions(tmp_path / "deep" / "predictions.json", predictions)
    assert json.loads((tmp_path / "deep" / "predictions.json").read_text(encoding="utf-8")) == predictions


def test_predictions_that_cannot_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    write_predictions(path, {"a": "old"})
    with pytest.raises(UnicodeEncodeError):
        write_predictions(path, {"a": "\udc80"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.json"]
