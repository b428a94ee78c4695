"""How long batches take on this host, alone and with what a server does around them.

    times = measure(answerer, grid, pairs)
    times.seconds(rows=8, length=384, number=0)             # alone, and where other lanes run batches

Every shape is run alone, and in all lanes at once; then a server is asked over loopback, first one question after
another, then many at once: what they take beyond the model is what the server costs.
"""

from __future__ import annotations

import json
import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice, product
from pathlib import Path
from typing import Self

import numpy as np

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.grid import FEW_ROWS, LENGTH_STEP, Grid, seconds_together, warm
from densepack_runtime.serving.sizing.loopback import ask
from densepack_runtime.sessions.lanes import lanes_in
from densepack_runtime.sessions.session import Session

TIMES = Document("the file of times", InputError, "give another file to --times")
ROUNDS = 3
# How many questions tell what a server costs, and how many come at once.
ALONE, TOGETHER, AT_ONCE = 24, 512, 64


@dataclass(frozen=True, slots=True)
class ShapeTime:
    """Seconds that a batch of this shape takes with nothing else running, and where every lane runs one like it."""

    rows: int
    length: int
    alone_s: float
    together_s: float


@dataclass(frozen=True)
class BatchTimes:
    """Times of batches in so many lanes, and what a server adds: to every window of a batch one of the `extras`,
    `between_s` between the batches of a lane, and `around_s` for a question that comes alone.

    The extras are what one batch after another took for each window, beyond its time, while questions came and went: a
    slow moment of the host is several of them in a row.
    """

    shapes: tuple[ShapeTime, ...]
    lanes: int = 1
    extras: tuple[float, ...] = (0.0,)
    between_s: float = 0.0
    around_s: float = 0.0

    def seconds(self, rows: int, length: int, number: int) -> tuple[float, float]:
        """Of the batch of this number among others, in a server: where no other lane has one, and where all have."""
        extra = rows * self.extras[number % len(self.extras)]
        alone, together = self._alone(rows, length), self._together(rows, length)
        return max(0.0, alone + extra) + self.between_s, max(0.0, together + extra) + self.between_s

    def cost(self, rows: int, length: int) -> float:
        """What a batch of this shape takes of the host's time, in seconds."""
        return self._together(rows, length) / self.lanes

    def beyond(self, rows: int, length: int, seconds: float) -> float:
        """What each window of a batch took beyond its time, where all lanes had one."""
        return (seconds - self._together(rows, length)) / rows

    @cached_property
    def _alone(self) -> Interpolated:
        return Interpolated({(shape.rows, shape.length): shape.alone_s for shape in self.shapes})

    @cached_property
    def _together(self) -> Interpolated:
        return Interpolated({(shape.rows, shape.length): shape.together_s for shape in self.shapes})


class Interpolated:
    """Seconds of every shape, between those that are known."""

    def __init__(self, seconds: Mapping[tuple[int, int], float]) -> None:
        self._by_length: dict[int, tuple[list[int], list[float]]] = {}
        for (rows, length), known in sorted(seconds.items()):
            some_rows, some_seconds = self._by_length.setdefault(length, ([], []))
            some_rows.append(rows)
            some_seconds.append(known)
        self._lengths = sorted(self._by_length)

    def __call__(self, rows: int, length: int) -> float:
        lengths = self._lengths
        upper = min(bisect_left(lengths, length), len(lengths) - 1)
        lower = max(0, upper - 1) if lengths[upper] > length else upper
        ends = [self._at_length(lengths[index], rows) for index in (lower, upper)]
        return float(np.interp(length, (lengths[lower], lengths[upper]), ends)) if lower != upper else ends[0]

    def _at_length(self, length: int, rows: int) -> float:
        known, seconds = self._by_length[length]
        if rows > known[-1]:  # beyond the budget at this length, but not at a shorter one
            return seconds[-1] * rows / known[-1]
        return float(np.interp(rows, known, seconds))


@dataclass(frozen=True, slots=True)
class KeptTimes:
    """Times, and what they were measured of: host, versions, bundle, backend."""

    measured_of: dict[str, str]
    times: BatchTimes

    @classmethod
    def read(cls, path: Path, measured_of: dict[str, str]) -> Self:
        """Raises InputError where the file is damaged, or what it measured differs from what is here."""
        kept = TIMES.read(path, cls)
        for name, here in measured_of.items():
            if kept.measured_of.get(name) != here:
                was = kept.measured_of.get(name, "unknown")
                raise InputError(f"{path} was measured with {name} {was}, and here it is {here}: give another --times")
        return kept

    def write(self, path: Path) -> None:
        write_text_atomic(path, json.dumps(data_from_record(self)) + "\n")


def shapes_to_measure(grid: Grid) -> list[tuple[int, int]]:
    """All of a grid with few shapes; of a finer one as many."""
    return Grid(grid.token_budget, grid.longest, max(grid.step, LENGTH_STEP), FEW_ROWS).shapes()


def measure(
    answerer: QuestionAnswerer, grid: Grid, pairs: Sequence[Pair], *, measured: Callable[[str], None] = lambda _: None
) -> BatchTimes:
    """Run every shape, and ask a server around the answerer, whose lanes are those of its session.

    `measured` hears of each step.
    """
    lanes = len(lanes_in(answerer.session))
    times = BatchTimes(tuple(_shape_times(answerer.session, shapes_to_measure(grid), measured)), lanes)
    grid = grid.measured(times.cost)
    one_by_one = ask(answerer, grid, list(islice(cycle(pairs), ALONE)), at_once=1)
    measured("questions one by one")
    loaded = ask(answerer, grid, list(islice(cycle(pairs), TOGETHER)), AT_ONCE)
    measured(f"{AT_ONCE} questions at once")
    extras = (times.beyond(*shape, seconds) for shape, seconds in loaded.batches)
    between_s = max(0.0, lanes * loaded.whole_s - sum(seconds for _, seconds in loaded.batches)) / len(loaded.batches)
    around_s = max(0.0, statistics.median(one_by_one.beside_s) - between_s)
    return BatchTimes(times.shapes, lanes, tuple(extras), between_s, around_s)


def steps(grid: Grid) -> int:
    """How often `measured` is called."""
    return (1 + ROUNDS) * len(shapes_to_measure(grid)) + 2


def _shape_times(
    session: Session, shapes: Sequence[tuple[int, int]], measured: Callable[[str], None]
) -> list[ShapeTime]:
    """Medians of rounds over all shapes, so that what slows the host for a while slows no shape alone.

    Before that each lane prepares itself for each shape.
    """
    for shape in shapes:
        warm(session, [shape])
        measured("x".join(map(str, shape)))
    alone: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    together: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    first, *rest = lanes_in(session)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1 + len(rest)) as pool:
        for _, shape in product(range(ROUNDS), shapes):
            alone[shape].append(seconds_together(first, *shape, one))
            together[shape].append(seconds_together(session, *shape, pool) if rest else alone[shape][-1])
            measured("x".join(map(str, shape)))
    return [ShapeTime(*shape, *(statistics.median(found[shape]) for found in (alone, together))) for shape in shapes]
