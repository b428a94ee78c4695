"""Questions as JSON lines: in, answered, and out in the same order. Each line stands alone, whatever it holds.

    with open("questions.jsonl", "rb", buffering=0) as file:
        answer_lines(answerer, lines_of(file, pause_s=0.05), sys.stdout, tell)

JSON is what RFC 8259 says, in and out: no NaN, and a lone surrogate, which UTF-8 cannot carry, leaves as its escape.
"""

from __future__ import annotations

import codecs
import json
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from typing import Any, NoReturn, TextIO

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.pairs import PAUSE, Pair, Pause, shown
from densepack_runtime.question_answering.question_answerer import Compat, QuestionAnswerer

_BLOCK_BYTES = 1 << 16


def lines_of(file: FileIO, pause_s: float) -> Iterator[bytes | Pause]:
    """The lines of a file or a pipe, and a PAUSE where for so many seconds nothing more came."""
    parts: list[bytes] = []  # of a line that has not ended yet
    for block in _blocks(file, pause_s):
        if isinstance(block, Pause):
            yield block
            continue
        *ends, rest = block.split(b"\n")
        for end in ends:
            yield b"".join([*parts, end])
            parts.clear()
        parts.append(rest)
    if any(parts):
        yield b"".join(parts)


def _blocks(file: FileIO, pause_s: float) -> Iterator[bytes | Pause]:
    while True:
        if not _can_read(file, pause_s):
            yield PAUSE
            _can_read(file, None)
        block = file.read(_BLOCK_BYTES)
        if block == b"":
            return
        if block is not None:  # somebody else has read what there was
            yield block


def _can_read(file: FileIO, seconds: float | None) -> bool:
    """Wait until there is something to read, the end included. Windows waits for sockets alone: there, never."""
    return sys.platform == "win32" or bool(select.select([file], [], [], seconds)[0])


@dataclass
class _LineReader:
    """Parses JSON lines; bad ones become InputError values that keep their place in the order."""

    source: Iterable[bytes | Pause]
    heads: deque[dict[str, Any]] = field(default_factory=deque)  # number and id of the lines under way

    def __iter__(self) -> Iterator[Pair | InputError | Pause]:
        number = 0
        for line in self.source:
            if isinstance(line, Pause):
                yield line
                continue
            number += 1
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            head, asked = _parse_line(text)
            self.heads.append({"line": number, **head})
            yield asked


def _parse_line(line: bytes) -> tuple[dict[str, Any], Pair | InputError]:
    """The id of a line, where it has one that can be given back, and its pair or what is wrong with it."""
    try:
        data = json_object(line)
    except InputError as error:
        return {}, error
    head = {"id": data["id"]} if data.get("id") is not None else {}
    try:
        strict_json(head)
    except (ValueError, RecursionError):
        return {}, InputError('the "id" cannot be given back: it has numbers beyond 1.8e308, or is nested too deeply')
    for name in ("question", "context"):
        if not isinstance(data.get(name), str):
            return head, InputError(f'"{name}" must be a string, it is {shown(data.get(name))}')
    return head, (data["question"], data["context"])


def json_object(line: bytes) -> dict[str, Any]:
    """What a line of JSON holds, which must be an object. Bytes that are no UTF-8 become lone surrogates.

    Raises InputError.
    """
    try:
        data = json.loads(line.decode("utf-8", "surrogateescape"), parse_int=_integer, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"a JSON object is needed, this is {type(data).__name__}")
    return data


def _integer(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts: beyond every float, too
        return float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none of its numbers")


def strict_json(document: Any) -> str:
    """One line of JSON, with text as it reads. Raises ValueError for a number that JSON does not have."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, allow_nan=False)
    return text


def answer_lines(
    answerer: QuestionAnswerer,
    source: Iterable[bytes | Pause],
    out: TextIO,
    tell: Callable[[str], None],
    *,
    strict: bool = False,
    compat: Compat | None = None,
) -> None:
    """Answer every line of `source` with a line of `out`, in order; `tell` hears of bad lines and how many there were.

    A bad line becomes an object with its `error`; with `strict` it raises InputError. So do lines of which none could
    be answered, once all are out.
    """
    reader = _LineReader(source)
    good = bad = 0
    for found in answerer.answer_many(reader, compat=compat, on_error="yield"):
        head = reader.heads.popleft()
        if isinstance(found, InputError):
            told = f"line {head['line']}: {found}"
            if strict:
                raise InputError(told)
            bad += 1
            tell(told)
            body: dict[str, Any] = {"error": str(found)}
        else:
            good += 1
            body = found.as_dict()
        out.write(strict_json({**head, **body}) + "\n")
        out.flush()
    tell(f"{good} answered, {bad} bad lines")
    if bad and not good:
        raise InputError(f"no line could be answered, of {bad}")
