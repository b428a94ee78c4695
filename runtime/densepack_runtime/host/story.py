"""How a long step tells what it does, whoever listens: the command line, a test, nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

ShowTable = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


@dataclass(frozen=True, slots=True)
class Story:
    """`tell` gets a line, `show` a table (title, columns, rows); `bar` makes a bar of so many steps, None: unknown.

    `lines_for_steps` asks for a line, too, where a bar shows a text that should stay: where no bar can be seen.
    """

    tell: Callable[[str], None]
    show: ShowTable
    bar: Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]
    lines_for_steps: bool = False

    @classmethod
    def silent(cls) -> Self:
        """For callers that want the result alone."""
        return cls(lambda _: None, lambda *_: None, lambda *_: nullcontext(lambda *_, **__: None))
