"""How a long step tells what it does, whoever listens: the command line, a test, nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

from densepack_runtime.parity import ParityReport


@dataclass(frozen=True, slots=True)
class Story:
    """`tell` gets a line, `show` the ladder, `bar` makes a bar of so many steps (None: nobody knows)."""

    tell: Callable[[str], None]
    show: Callable[[ParityReport], None]
    bar: Callable[[str, int | None], AbstractContextManager[Callable[..., None]]]

    @classmethod
    def silent(cls) -> Self:
        """For callers that want the result alone."""
        return cls(lambda _: None, lambda _: None, lambda *_: nullcontext(lambda *_, **__: None))
