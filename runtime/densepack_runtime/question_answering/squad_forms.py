"""The forms that SQuAD data comes in, walked as one: every question with its context, and the place of each fault.

    {"version": "1.1", "data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": […]}]}]}]}
    [{"id": …, "context": …, "question": …, "answers": {"text": […], "answer_start": […]}}, …]

The first is that of the official files, the second that of the hub's data sets: a list, the same below "data", or an
object a line (JSON lines).

    for question in questions_of(document_of(text)): question.entry.child("id").get(str), question.golds()
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from densepack_runtime.errors import InputError

_WHITE = " \t\n\r"  # JSON's
T = TypeVar("T", bound=bool | int | str | list[Any])
_KINDS: dict[type, str] = {list: "a list", str: "a string", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document and where it stands, for messages."""

    value: Any
    place: str = ""

    def get(self, kind: type[T]) -> T:
        """The value, if it is of the kind."""
        if isinstance(self.value, kind) and isinstance(self.value, bool) == (kind is bool):
            return self.value
        raise self.fault(_KINDS[kind])

    def child(self, name: str) -> Node:
        """What an object has under a name; None where it has nothing."""
        if not isinstance(self.value, dict):
            raise self.fault("an object")
        return Node(self.value.get(name), f"{self.place}.{name}".lstrip("."))

    def items(self) -> list[Node]:
        """The values of a list."""
        return [Node(value, f"{self.place}[{number}]") for number, value in enumerate(self.get(list))]

    def fault(self, wanted: str) -> InputError:
        shown = "missing" if self.value is None else repr(self.value)[:60]
        return InputError(f"{self.place or 'the document'} must be {wanted}, it is {shown}")


@dataclass(frozen=True, slots=True)
class StoredQuestion:
    """The object that a question is, and its context; `flat` when that is a field of it, as in the hub's rows."""

    entry: Node
    context: str
    flat: bool

    @property
    def is_bare(self) -> bool:
        """Whether it is nothing but a question and its context, as JSON lines of questions to be answered are."""
        return self.flat and self.entry.child("id").value is None and self.entry.child("answers").value is None

    @property
    def place(self) -> str:
        """Where it stands, which names one without an id."""
        return self.entry.place or "line 1"

    def golds(self) -> list[tuple[str, int]]:
        """Text and first character of every gold answer; a test set has none, or no `answers` at all."""
        answers = self.entry.child("answers")
        if answers.value is None:
            return []
        if not isinstance(answers.value, dict):
            return [
                (answer.child("text").get(str), answer.child("answer_start").get(int)) for answer in answers.items()
            ]
        texts, starts = answers.child("text").items(), answers.child("answer_start").items()
        if len(texts) != len(starts):
            raise answers.fault(f"as many starts as texts ({len(starts)} and {len(texts)})")
        return [(text.get(str), start.get(int)) for text, start in zip(texts, starts, strict=True)]


def document_of(text: str) -> list[Node] | Node:
    """The JSON document, or the lines of JSON lines. Raises ValueError for anything else."""
    begin = len(text) - len(text.lstrip(_WHITE))
    first, end = json.JSONDecoder().raw_decode(text, begin)
    if not text[end:].strip(_WHITE):
        return Node(first)
    if not isinstance(first, dict) or "\n" in text[begin:end]:
        raise json.JSONDecodeError("Extra data", text, end)
    return [Node(_line(line, number), f"line {number}") for number, line in _lines(text)]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, by number. Only a line feed ends one: a string may hold all other line ends."""
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip(_WHITE))


def _line(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def questions_of(document: list[Node] | Node) -> Iterator[StoredQuestion]:
    """Every question, in order. Raises InputError with the place of what is wrong."""
    for row in _rows(document):
        if isinstance(row.value, dict) and "paragraphs" not in row.value and row.value.keys() & {"context", "question"}:
            yield StoredQuestion(row, row.child("context").get(str), flat=True)
            continue
        for paragraph in row.child("paragraphs").items():
            context = paragraph.child("context").get(str)
            for entry in paragraph.child("qas").items():
                yield StoredQuestion(entry, context, flat=False)


def _rows(document: list[Node] | Node) -> list[Node]:
    """Articles of an official file, or questions."""
    if isinstance(document, list):
        return document
    if isinstance(document.value, list):
        return document.items()
    if isinstance(document.value, dict) and "context" in document.value:  # one question: JSON lines of one line
        return [document]
    return document.child("data").items()
