"""Each line stands alone: strict JSON in, strict JSON out, in order, and at once for who waits."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.json_lines import answer_lines, lines_of
from densepack_runtime.question_answering.pairs import PAUSE, Pause, shown
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fake_session import FakeSession

GOOD = b'{"id": 7, "question": "Who?", "context": "A dog."}'
PAUSE_S = 0.05


@pytest.fixture(scope="module")
def answerer(default_tokenizer_json: str) -> QuestionAnswerer:
    return QuestionAnswerer(FakeSession(), Windower(default_tokenizer_json))


def strict(text: str) -> Any:
    """Parse as RFC 8259 does: no NaN, no lone surrogate outside an escape."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text.encode("utf-8")
    return json.loads(text, parse_constant=refuse)


def answered(answerer: QuestionAnswerer, *lines: bytes, **options: Any) -> tuple[list[Any], list[str]]:
    out, told = io.StringIO(), list[str]()
    answer_lines(answerer, lines, out, told.append, **options)
    return [strict(line) for line in out.getvalue().splitlines()], told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{not json", "not JSON"),
        (b"[1, 2]", "a JSON object is needed, this is list"),
        (b'{"question": "Who?", "context": NaN}', "not JSON: NaN is none of its numbers"),
        (b'{"question": "Who?", "context": "x", "id": -Infinity}', "not JSON: -Infinity is none of its numbers"),
        (b'{"question": "Who?", "context": "x", "id": 1e999}', 'the "id" cannot be given back'),
        (b'{"question": "Who?", "context": "x", "id": ' + b"9" * 4301 + b"}", 'the "id" cannot be given back'),
        (b'{"question": "Who?", "context": "x", "id": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "not JSON"),
        (b'{"question": "Who?", "context": "x\xff"}', "the context is not valid Unicode"),
        (b'{"question": "\\ud800", "context": "x"}', "the question is not valid Unicode"),
        (b'{"question": "", "context": "x"}', "the question is empty"),
        (b'{"question": "Who?"}', '"context" must be a string, it is None'),
        (b'{"question": ' + b"9" * 10**5 + b', "context": "x"}', '"question" must be a string, it is inf'),
        (b'{"question": ["' + b"x" * 10**5 + b'"], "context": "x"}', '"question" must be a string, it is [\'xxx'),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"null", "a JSON object is needed, this is NoneType"),
    ],
    ids=shown,
)
def test_a_bad_line_is_one_line_and_the_next_one_is_answered(
    answerer: QuestionAnswerer, line: bytes, told: str
) -> None:
    [bad, good], story = answered(answerer, line, GOOD)
    assert bad.keys() == {"line", "error"}
    assert bad["line"] == 1
    assert told in bad["error"]
    assert len(bad["error"]) < 200
    assert (good["line"], good["id"], good["answer"] != "") == (2, 7, True)
    assert story == [f"line 1: {bad['error']}", "1 answered, 1 bad lines"]


@pytest.mark.parametrize(
    "identity", ['"\\ud800"', '"é\\n"', "0", "false", "[1.5, null]", "9" * 4300, '{"a": "\\udfff"}'], ids=shown
)
@pytest.mark.parametrize("context", ['"A dog."', '""'])
def test_the_id_comes_back_with_answers_and_with_errors(
    answerer: QuestionAnswerer, identity: str, context: str
) -> None:
    line = f'{{"id": {identity}, "question": "Who?", "context": {context}}}'.encode()
    [found, _], _ = answered(answerer, line, GOOD)
    assert found["id"] == json.loads(identity)
    assert ("error" in found) == (context == '""')


def test_a_number_of_any_length_beside_it_harms_nothing(answerer: QuestionAnswerer) -> None:
    [found], _ = answered(answerer, GOOD.replace(b"{", b'{"n": ' + b"9" * 4301 + b", "))
    assert found["id"] == 7
    assert found["answer"]


def test_a_bom_is_no_text_and_empty_lines_count(answerer: QuestionAnswerer) -> None:
    found, _ = answered(answerer, b"\xef\xbb\xbf" + GOOD, b"", b" \r", GOOD + b"\r")
    assert [(line["line"], line["id"]) for line in found] == [(1, 7), (4, 7)]


def test_lines_of_which_none_can_be_answered_are_an_error(answerer: QuestionAnswerer) -> None:
    with pytest.raises(InputError, match="no line could be answered, of 2"):
        answered(answerer, b"{", b"[]")
    assert answered(answerer) == ([], ["0 answered, 0 bad lines"])


def test_strict_stops_at_the_first_bad_line(answerer: QuestionAnswerer) -> None:
    with pytest.raises(InputError, match="line 2: not JSON"):
        answered(answerer, GOOD, b"{", GOOD, strict=True)


# --- pipes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """What is read, and what is written."""
    ends = os.pipe()
    with FileIO(ends[0]) as reader, FileIO(ends[1], "w") as writer:
        yield reader, writer


def end(writer: FileIO, with_bytes: bytes) -> None:
    writer.write(with_bytes)
    writer.close()


def test_a_pause_comes_once_where_nothing_more_does(pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    lines = lines_of(reader, PAUSE_S)
    writer.write(b"one\ntwo\nthr")
    assert [next(lines) for _ in range(3)] == [b"one", b"two", PAUSE]
    threading.Timer(3 * PAUSE_S, end, (writer, b"ee\n")).start()
    found: list[bytes | Pause] = list(lines)
    assert found == [b"three"]


def test_lines_of_any_length_with_and_without_an_end(tmp_path: Path) -> None:
    lines = [b"x" * 1_000_000, b"", b"y" * 65_536, b"z\r"]
    (tmp_path / "file").write_bytes(b"\n".join(lines))
    with FileIO(tmp_path / "file") as file:
        assert list(lines_of(file, 0)) == lines
    (tmp_path / "file").write_bytes(b"a\n")
    with FileIO(tmp_path / "file") as file:
        assert list(lines_of(file, 0)) == [b"a"]


def test_a_pipe_that_does_not_wait(pipe: tuple[FileIO, FileIO]) -> None:
    """As some programs leave the stdin of those they start."""
    reader, writer = pipe
    os.set_blocking(reader.fileno(), False)
    lines = lines_of(reader, PAUSE_S)
    threading.Timer(2 * PAUSE_S, end, (writer, b"one\n")).start()
    assert list(lines) == [PAUSE, b"one"]
