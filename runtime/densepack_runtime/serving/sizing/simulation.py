"""What a server would do: its line and its grid, run over batch times that were measured, in no time.

    simulation = Simulation(grid, times)
    simulation.at_rate(questions, 40.0, seed=0).p99_s        # questions a second that come as they like
    simulation.over_connections(questions, 64).rate          # clients that ask again when they are answered

A question is the lengths of its windows in tokens. What is simulated is one process with one model. A batch goes on
slower where other lanes have one, too. What happens around the model before and after costs each question
`times.around_s`, beside the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.line import Line
from densepack_runtime.serving.sizing.batch_times import BatchTimes

Question = Sequence[int]
# Less than this share of a batch is left by rounding alone; and no batch takes fewer seconds.
_NOTHING = 1e-9


class _Window(NamedTuple):
    length: int


@dataclass(slots=True)
class Simulated:
    """Seconds of each question from when it came until it was answered, and the shapes of the batches."""

    seconds: list[float] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    busy_s: float = 0.0
    whole_s: float = 0.0

    @property
    def rate(self) -> float:
        """Questions a second, from the first that came to the last answer."""
        return len(self.seconds) / self.whole_s

    @property
    def p50_s(self) -> float:
        return float(np.quantile(self.seconds, 0.5))

    @property
    def p99_s(self) -> float:
        return float(np.quantile(self.seconds, 0.99))

    @property
    def busy(self) -> float:
        """The share of the time that the model runs."""
        return self.busy_s / self.whole_s

    @property
    def mean_rows(self) -> float:
        return float(np.mean([rows for rows, _ in self.shapes]))


@dataclass(slots=True)
class _Running:
    """A batch with the share of it that is not done, its seconds in all, and the numbers of its windows' questions."""

    alone_s: float
    together_s: float
    numbers: list[int]
    left: float = 1.0

    def seconds(self, full: float) -> float:
        """Until it ends, where this share of the other lanes have a batch."""
        return self.left * self._whole_s(full)

    def go_on(self, seconds: float, full: float) -> None:
        self.left -= seconds / self._whole_s(full)

    def _whole_s(self, full: float) -> float:
        return max(_NOTHING, self.alone_s + full * (self.together_s - self.alone_s))


class Simulation:
    """Of one server, which runs a batch in each of its lanes."""

    def __init__(self, grid: Grid, times: BatchTimes) -> None:
        self._grid, self._times = grid, times

    def at_rate(self, questions: Sequence[Question], rate: float, seed: int = 0) -> Simulated:
        """Questions that come independently of each other, `rate` a second on average."""
        chance, now = random.Random(seed), 0.0
        coming: list[tuple[float, int]] = []
        for number in range(len(questions)):
            now += chance.expovariate(rate)
            coming.append((now, number))
        return self._run(questions, coming, iter(()))

    def over_connections(self, questions: Sequence[Question], connections: int) -> Simulated:
        """Questions over so many connections: each brings the next when it got the answer to the last."""
        first = min(connections, len(questions))
        later = iter(range(first, len(questions)))
        return self._run(questions, [(0.0, number) for number in range(first)], later)

    def _run(self, questions: Sequence[Question], coming: list[tuple[float, int]], later: Iterator[int]) -> Simulated:
        """`coming` are the times of questions in order; each answer brings the next of those that come `later`."""
        line: Line[_Window] = Line(self._grid)
        running: list[_Running] = []
        outcome, missing, now = Simulated(), list(map(len, questions)), coming[0][0]
        came = {number: time for time, number in coming}
        ready = [(time + self._times.around_s, number) for time, number in coming]
        while ready or running:
            full = (len(running) - 1) / max(1, self._times.lanes - 1)
            next_s = min([now + batch.seconds(full) for batch in running] + [time for time, _ in ready[:1]])
            outcome.busy_s += next_s - now if running else 0.0
            for number in _ended(running, next_s - now, full):
                missing[number] -= 1
                if not missing[number]:
                    outcome.seconds.append(next_s - came[number])
                    if (following := next(later, None)) is not None:
                        came[following] = next_s
                        heappush(ready, (next_s + self._times.around_s, following))
            now = next_s
            while ready and ready[0][0] <= now:
                _, number = heappop(ready)
                line.enter(number, [_Window(length) for length in questions[number]])
            while line and len(running) < self._times.lanes:
                running.append(self._take(line, outcome))
        outcome.whole_s = now - coming[0][0]
        return outcome

    def _take(self, line: Line[_Window], outcome: Simulated) -> _Running:
        taken, length = line.take()
        seconds = self._times.seconds(len(taken), length, len(outcome.shapes))
        outcome.shapes.append((len(taken), length))
        return _Running(*seconds, [number for number, _ in taken])


def _ended(running: list[_Running], seconds: float, full: float) -> list[int]:
    """The numbers of the windows whose batches end after so many seconds."""
    for batch in running:
        batch.go_on(seconds, full)
    ended = [batch for batch in running if batch.left <= _NOTHING]
    running[:] = [batch for batch in running if batch.left > _NOTHING]
    return [number for batch in ended for number in batch.numbers]
