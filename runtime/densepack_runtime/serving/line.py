"""Windows that wait for the model, and which of them run next.

    line = Line(grid)
    line.enter(7, windows)                        # those of question 7
    [(number, window), ...], length = line.take()

The windows of one question stand apart: its k-th as if it were the first of a question that came k questions later. So
a long document shares the model with what comes after it, and no window waits for more batches than windows stood
before it. The next batch is the first window with those behind it that are most like it in length, from as many as make
REACH batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, Protocol, TypeVar

from densepack_runtime.serving.grid import Grid
from densepack_runtime.sessions.batching import MAX_BATCH

# In token budgets: how much of the line a batch is chosen from. Further back there is little to win, and who is passed
# by waits longer.
REACH = 2.0


class _HasLength(Protocol):
    @property
    def length(self) -> int: ...


Waiting = TypeVar("Waiting", bound=_HasLength)


class Line(Generic[Waiting]):
    """For one thread at a time. Questions are numbered in the order in which they came; the grid may be exchanged."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._windows: dict[int, dict[int, Waiting]] = {}  # of each question that waits, by their places
        self._places: list[tuple[int, int]] = []  # a heap of places with questions; some of them wait no more

    def enter(self, number: int, windows: Sequence[Waiting]) -> None:
        self._windows[number] = dict(enumerate(windows, number))
        for place in self._windows[number]:
            heappush(self._places, (place, number))

    def leave(self, number: int) -> None:
        """Whether it still waits or not."""
        self._windows.pop(number, None)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the questions with windows that wait."""
        return iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def take(self) -> tuple[list[tuple[int, Waiting]], int]:
        """The windows to run next with the numbers of their questions, and the length to pad them to."""
        first = list(self._pop_first())
        chosen, length = self.grid.next_batch([self._windows[number][place].length for place, number in first])
        for index in set(range(len(first))) - set(chosen):
            heappush(self._places, first[index])
        return [(number, self._remove(number, place)) for place, number in (first[index] for index in chosen)], length

    def _pop_first(self) -> Iterator[tuple[int, int]]:
        """Places and numbers of those from which the next batch is chosen."""
        left = REACH * self.grid.token_budget
        for place, number in islice(self._pop_waiting(), MAX_BATCH):
            yield place, number
            left -= self._windows[number][place].length
            if left <= 0:
                return

    def _pop_waiting(self) -> Iterator[tuple[int, int]]:
        while self._places:
            place, number = heappop(self._places)
            if number in self._windows:
                yield place, number

    def _remove(self, number: int, place: int) -> Waiting:
        windows = self._windows[number]
        window = windows.pop(place)
        if not windows:
            del self._windows[number]
        return window
