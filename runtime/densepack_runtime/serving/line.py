"""Windows that wait for the model, and which of them run next.

    line = Line(grid)
    line.enter(7, windows)                        # those of question 7
    [(number, window), ...], length = line.take()

The windows of one question stand apart: its k-th as if it were the first of a question that came k questions later. So
a long document shares the model with what comes after it, and no window waits for more batches than windows stood
before it. The next batch is the first window with those of the first 64 that are most like it in length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Generic, Protocol, TypeVar

from densepack_runtime.serving.grid import Grid
from densepack_runtime.sessions.batching import MAX_BATCH


class _HasLength(Protocol):
    @property
    def length(self) -> int: ...


Waiting = TypeVar("Waiting", bound=_HasLength)


class Line(Generic[Waiting]):
    """For one thread at a time. Questions are numbered in the order in which they came."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._places: dict[int, dict[int, Waiting]] = {}  # of a question that waits, with their windows

    def enter(self, number: int, windows: Sequence[Waiting]) -> None:
        self._places[number] = dict(enumerate(windows, number))

    def leave(self, number: int) -> None:
        """Whether it still waits or not."""
        self._places.pop(number, None)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the questions with windows that wait."""
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def take(self) -> tuple[list[tuple[int, Waiting]], int]:
        """The windows to run next with the numbers of their questions, and the length to pad them to."""
        line = nsmallest(MAX_BATCH, self._first())
        chosen, length = self._grid.next_batch([self._places[number][place].length for place, number in line])
        return [(number, self._pop(number, place)) for place, number in (line[index] for index in chosen)], length

    def _first(self) -> Iterator[tuple[int, int]]:
        """Places with the numbers of the questions that stand there; of each question as many as a batch can take."""
        for number, places in self._places.items():
            for place in islice(places, MAX_BATCH):
                yield place, number

    def _pop(self, number: int, place: int) -> Waiting:
        places = self._places[number]
        window = places.pop(place)
        if not places:
            del self._places[number]
        return window
