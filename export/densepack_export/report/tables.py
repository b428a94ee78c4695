"""Tables of a page, as text; the template lays them out and escapes what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with something smaller below it; `kind` names a class of the style sheet."""

    text: str
    note: str = ""
    kind: str = ""


Row = tuple[str | Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the row. Columns in `words` hold text, the others numbers, which end at the right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    words: frozenset[int] = frozenset({0})

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Sequence[Row], words: Sequence[int] = ()) -> Table:
        return cls(caption, tuple(columns), tuple(rows), frozenset({0, *words}))


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
