"""JSON lines, whole and broken in every way: one strict line comes out for each, and good ones are answered."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.json_lines import answer_lines, lines_of
from tests.faults.kinds.hostile_texts import answerer, hostile_text
from tests.faults.kinds.kind import ENDED, TRACEBACK, WRONG, kind

AT_ONCE = 200
SPECIAL = (
    *(
        b"{",
        b"[]",
        b"null",
        b"3",
        b"NaN",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        b"\x00",
        b"{" * 50_000,
        b"[" * 200_000,
        b'{"a":1}{"a":1}',
    ),
    *(
        b'{"id": "\\ud800", "question": 1}',
        b'{"id": ' + b"9" * 4301 + b"}",
        b'{"id": 1e999, "question": "a", "context": "b"}',
    ),
    *(
        b'{"question": NaN, "context": "b", "id": 1}',
        b'{"id": 1, "question": "a", "context": Infinity}',
        b"\xef\xbb\xbf{}",
    ),
    *(
        b'{"question": "' + b"x" * 200_000 + b'", "context": "b", "id": 5}',
        b'{"question": "a", "question": 1, "context": "b"}',
    ),
)
IDS: tuple[Any, ...] = (
    0,
    -1,
    1.5,
    "",
    "q1",
    "\ud800",
    "\udcff",
    "é\u2028",
    [1, [None]],
    {"a": "\udfff"},
    False,
    int("9" * 4300),
)


@kind("JSON lines", tries=8_000, quick=200)
def json_lines(seed: int, folder: Path) -> Iterator[str]:
    rng = random.Random(seed)
    while True:
        asked = [_line(rng) for _ in range(AT_ONCE)]
        (folder / "lines").write_bytes(b"\n".join(line for line, _ in asked) + b"\n")
        out = io.StringIO()
        try:
            with FileIO(folder / "lines") as file:
                answer_lines(answerer(), lines_of(file, 0), out, lambda _: None)
            ended = ENDED
        except BaseException as error:  # noqa: BLE001  what the kind counts
            ended = f"{ENDED} by {error!r}"
        found = out.getvalue().split("\n")[:-1]
        for number, (line, good) in enumerate(asked):
            yield _ending(found[number], number + 1, line, good) if number < len(found) else ended


def _line(rng: random.Random) -> tuple[bytes, dict[str, Any] | None]:
    """A line, and what it says where that is known to be a question with its context."""
    luck = rng.random()
    if luck < 0.25:
        return rng.choice(SPECIAL), None
    good = {"id": rng.choice(IDS), "question": hostile_text(rng), "context": hostile_text(rng)}
    line = json.dumps(good).encode("ascii")
    if rng.random() < 0.5:
        with suppress(UnicodeEncodeError):  # lone surrogates stay escapes
            line = json.dumps(good, ensure_ascii=False).encode("utf-8")
    if luck < 0.65:
        return line, good
    return _broken(bytearray(line), rng), None


def _broken(line: bytearray, rng: random.Random) -> bytes:
    """A few bytes changed, lost or cut off, but no line of its own and not nothing."""
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(line))
        how = rng.randrange(3)
        if how == 0:
            line[place] = rng.randrange(256)
        elif how == 1:
            line[place : place + rng.randrange(1, 9)] = b""
        else:
            line[place:] = line[place : place + 40]
    return bytes(line).replace(b"\n", b"?").strip() or b"?"


def _ending(text: str, number: int, line: bytes, good: dict[str, Any] | None) -> str:
    try:
        text.encode("utf-8")
        found = json.loads(text, parse_constant=_no_json)
    except ValueError as error:
        return f"{WRONG}: {error} in {text[:200]!r}"
    if found["line"] != number:
        return f"{WRONG}: line {found['line']} in place of {number}"
    if good is None:
        return _ending_of_broken(found, line)
    if found.get("id") != good["id"]:
        return f"{WRONG}: another id than {good['id']!r}"
    [alone] = answerer().answer_many([good], on_error="yield")
    if isinstance(alone, InputError):
        return "an error with its id" if found.get("error") == str(alone) else f"{WRONG}: {found} instead of {alone}"
    same = all(found.get(name) == value for name, value in alone.as_dict().items() if name != "score")
    return "answered as alone" if same else f"{WRONG}: {found} instead of {alone}"


def _ending_of_broken(found: dict[str, Any], line: bytes) -> str:
    """Broken lines may still be questions; then the answer has to be from their context."""
    if "error" in found:
        return "a broken line: an error" if len(found["error"]) < 300 else f"{TRACEBACK}: an error of any length"
    context = json.loads(line.decode("utf-8", "surrogateescape"))["context"]
    right = found["answer"] == context[found["start"] : found["end"]]
    return "a broken line: answered from what it says" if right else f"{WRONG}: {found}"


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
