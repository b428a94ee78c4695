"""Questions as JSON lines: in, answered, and out in the same order."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.question_answerer import Compat, QuestionAnswerer


def open_lines(name: str) -> TextIO:
    """A file of lines, or - for stdin. Raises InputError when it cannot be read."""
    if name == "-":
        return sys.stdin
    try:
        return Path(name).open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"the lines cannot be read: {error}") from error


@dataclass
class _LineReader:
    """Parses JSON lines; bad ones become InputError values that keep their place in the order."""

    source: Iterable[str]
    places: deque[tuple[int, Any]] = field(default_factory=deque)  # line number and id of what is under way

    def __iter__(self) -> Iterator[tuple[str, str] | InputError]:
        for number, line in enumerate(self.source, start=1):
            if not line.strip():
                continue
            parsed = _parse_line(line)
            self.places.append((number, parsed.get("id") if isinstance(parsed, dict) else None))
            yield parsed if isinstance(parsed, InputError) else (parsed["question"], parsed["context"])


def _parse_line(line: str) -> dict[str, Any] | InputError:
    try:
        data = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return InputError(f"not JSON: {error}")
    if not isinstance(data, dict):
        return InputError(f"a JSON object is needed, this is {type(data).__name__}")
    for name in ("question", "context"):
        if not isinstance(data.get(name), str):
            return InputError(f'"{name}" must be a string, it is {data.get(name)!r}')
    return data


def answer_lines(
    answerer: QuestionAnswerer,
    source: Iterable[str],
    out: TextIO,
    tell: Callable[[str], None],
    *,
    strict: bool = False,
    compat: Compat | None = None,
) -> None:
    """Answer every line of `source` with a line of `out`, in order; `tell` hears of bad lines and how many there were.

    A bad line becomes an object with its `error`; with `strict` it raises InputError.
    """
    reader = _LineReader(source)
    good = bad = 0
    for found in answerer.answer_many(reader, compat=compat, on_error="yield"):
        number, identity = reader.places.popleft()
        head = {"line": number} if identity is None else {"line": number, "id": identity}
        if isinstance(found, InputError):
            if strict:
                raise InputError(f"line {number}: {found}")
            bad += 1
            tell(f"line {number}: {found}")
            body: dict[str, Any] = {"error": str(found)}
        else:
            good += 1
            body = found.as_dict()
        out.write(json.dumps({**head, **body}, ensure_ascii=False) + "\n")
    tell(f"{good} answered, {bad} bad lines")
