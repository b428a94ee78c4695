"""`densepack eval`: what can be known is refused before the first question, what cannot loses no other answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from tests.command_line import CommandLine, Outcome

CONTEXT = "The bridge was built by Anna Berg in 1901."


def row(identity: object, question: str = "Who built the bridge?", **changes: Any) -> dict[str, Any]:
    """A question as the hub's data sets have it."""
    answers = {"text": ["Anna Berg"], "answer_start": [24]}
    return {"id": identity, "context": CONTEXT, "question": question, "answers": answers} | changes


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def predictions_of(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("form", ["list", "data", "lines"])
def test_rows_with_integer_ids(densepack: CommandLine, default_bundle: Path, tmp_path: Path, form: str) -> None:
    rows = [row(7), row(8, "When was the bridge built?", answers={"text": ["1901"], "answer_start": [37]})]
    forms: dict[str, object] = {"list": rows, "data": {"data": rows}, "lines": "\n".join(map(json.dumps, rows))}
    out = tmp_path / "predictions.json"
    done = densepack("eval", default_bundle, "--squad", written(tmp_path, forms[form]), "--predictions", out, "--json")
    assert done.code == 0, done.err
    assert predictions_of(out) == {"7": "Anna Berg", "8": "1901"}
    document = json.loads(done.out)
    assert (document["exact_match"], document["count"]) == (100, 2)
    assert "failed" not in document


def test_questions_that_cannot_be_answered_lose_no_other(
    densepack: CommandLine, default_bundle: Path, tmp_path: Path
) -> None:
    rows = [row("good"), row("empty", " "), row("long", "who " * 500), row("fine"), row("nowhere", context="\u200b")]
    arguments = ("eval", default_bundle, "--squad", written(tmp_path, rows), "--predictions", tmp_path / "out.json")
    done = densepack(*arguments, "--json")
    assert done.code == 1
    assert predictions_of(tmp_path / "out.json") == {"good": "Anna Berg", "fine": "Anna Berg"}
    document = json.loads(done.out)
    assert (document["count"], document["failed"], document["exact_match"]) == (5, 3, 40)
    assert set(document["failures"]) == {"empty", "long", "nowhere"}
    assert "the question has 500 tokens" in document["failures"]["long"]
    [line] = done.error_lines
    assert "3 of 5 questions could not be answered" in line
    assert "question 'empty': the question is empty" in done.err
    assert "could not be answered" in densepack(*arguments).out


def test_a_test_set_gives_predictions_and_no_scores(
    densepack: CommandLine, default_bundle: Path, tmp_path: Path
) -> None:
    question = {"id": "q", "question": "Who built the bridge?"}
    squad = written(tmp_path, {"version": "1.1", "data": [{"paragraphs": [{"context": CONTEXT, "qas": [question]}]}]})
    out = tmp_path / "predictions.json"
    done = densepack("eval", default_bundle, "--squad", squad, "--predictions", out)
    assert (done.code, done.out) == (0, "")
    assert "squad.json has no answers: there is nothing to score the predictions against" in done.err
    assert predictions_of(out) == {"q": "Anna Berg"}
    document = json.loads(densepack("eval", default_bundle, "--squad", squad, "--predictions", out, "--json").out)
    assert set(document) == {"squad", "sha256"}
    [line] = densepack("parity", default_bundle, "--squad", squad).error_lines
    assert "1 of 1 questions have no gold answer" in line


@pytest.fixture
def refused(densepack: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`densepack eval` that must not get as far as opening the bundle; gives its one line."""

    def run(*arguments: object) -> str:
        done: Outcome = densepack("eval", tmp_path / "no.bundle", *arguments)
        assert done.code == 1
        assert done.out == ""
        [line] = done.err.splitlines()
        assert line.startswith("error: ")
        return line

    monkeypatch.setattr(QuestionAnswerer, "open", lambda *_, **__: pytest.fail("the work has begun"))
    return run


def test_what_is_refused_before_the_first_question(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'folder'} is a folder" in refused("--predictions", tmp_path / "folder")
    assert "Not a directory" in refused("--predictions", tmp_path / "file" / "deep" / "out.json")
    assert "--null-odds is for SQuAD 2" in refused("--null-odds", tmp_path / "odds.json")
    bare = written(tmp_path, {"version": "1.1", "data": [row("a"), row("b", answers=None)]})
    assert "1 of 2 questions have no gold answer, first 'b'" in refused("--squad", bare)
    squad2 = written(tmp_path, [row("a"), row("b", answers=None)])
    same = ("--predictions", tmp_path / "x.json", "--null-odds", tmp_path / "folder" / ".." / "x.json")
    assert "both name" in refused("--squad", squad2, *same)
    assert "is a folder" in refused("--squad", squad2, "--null-odds", tmp_path / "folder")
    unanswered = written(tmp_path, [row("a", answers=None)])
    assert "no answers to score against" in refused("--squad", unanswered)


def test_a_device_is_no_fault(densepack: CommandLine, tmp_path: Path) -> None:
    done = densepack("eval", tmp_path, "--predictions", "/dev/null")
    assert "is not a bundle" in done.error_lines[0]
