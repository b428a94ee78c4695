"""Questions that are answered together: the stream in pools of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from densepack_runtime.errors import InputError
from densepack_runtime.sessions.session import Window

Pair = tuple[str, str]
# Questions that are sorted by length and run together, and the windows that end a pool early when contexts are long:
# what bounds the memory of a stream. While one pool is computed, the next one is tokenised: the stream is read at most
# 2 * POOL_QUESTIONS + PAIRS_AT_ONCE questions ahead.
POOL_QUESTIONS = 1024
POOL_WINDOWS = 4096


@dataclass
class Pool:
    """Questions that are answered together: contexts, and windows or what is wrong with the question.

    `first` is the number of the pool's first question in the stream; windows carry the number of theirs.
    """

    first: int
    contexts: list[str] = field(default_factory=list)
    results: list[list[Window] | InputError] = field(default_factory=list)
    window_count: int = 0

    def add(self, pair: Pair | InputError, result: list[Window] | InputError) -> None:
        self.contexts.append("" if isinstance(pair, InputError) else pair[1])
        self.results.append(result)
        self.window_count += 0 if isinstance(result, InputError) else len(result)

    @property
    def is_full(self) -> bool:
        return len(self.results) >= POOL_QUESTIONS or self.window_count >= POOL_WINDOWS

    def windows(self) -> Iterator[Window]:
        for result in self.results:
            if not isinstance(result, InputError):
                yield from result
