"""How long batches take on this host, alone and with what a server does around them.

    times = measure(answerer, grid, pairs)
    times.seconds(rows=8, length=384)

Every shape is run alone; then a server is asked over loopback, first one question after another, then many at once:
what they take beyond the model is what the server costs.
"""

from __future__ import annotations

import json
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import numpy as np

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.grid import FEW_ROWS, LENGTH_STEP, Grid, batch_of
from densepack_runtime.serving.sizing.loopback import ask

TIMES = Document("the file of times", InputError, "give another file to --times")
ROUNDS = 3
# How many questions tell what a server costs, and how many come at once.
ALONE, TOGETHER, AT_ONCE = 24, 512, 64


@dataclass(frozen=True, slots=True)
class ShapeTime:
    """Seconds that a batch of this shape takes with nothing else running."""

    rows: int
    length: int
    seconds: float


@dataclass(frozen=True)
class BatchTimes:
    """Times of batches, and what a server adds: to every window of a batch one of the `extras`, `between_s` between
    batches, and `around_s` for a question that comes alone.

    The extras are what one batch after another took for each window, beyond their times alone, while questions came and
    went: a slow moment of the host is several of them in a row.
    """

    shapes: tuple[ShapeTime, ...]
    extras: tuple[float, ...] = (0.0,)
    between_s: float = 0.0
    around_s: float = 0.0

    def seconds(self, rows: int, length: int, number: int) -> float:
        """Of the batch of this number among others."""
        extra = rows * self.extras[number % len(self.extras)]
        return max(0.0, self.alone(rows, length) + extra) + self.between_s

    def alone(self, rows: int, length: int) -> float:
        """Interpolated between the shapes that were measured."""
        lengths = sorted(self._by_length)
        upper = min(bisect_left(lengths, length), len(lengths) - 1)
        lower = max(0, upper - 1) if lengths[upper] > length else upper
        ends = [self._at_length(lengths[index], rows) for index in (lower, upper)]
        return float(np.interp(length, (lengths[lower], lengths[upper]), ends)) if lower != upper else ends[0]

    @cached_property
    def _by_length(self) -> dict[int, tuple[list[int], list[float]]]:
        found: dict[int, tuple[list[int], list[float]]] = {}
        for shape in sorted(self.shapes, key=lambda shape: shape.rows):
            rows, seconds = found.setdefault(shape.length, ([], []))
            rows.append(shape.rows)
            seconds.append(shape.seconds)
        return found

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
    """Run every shape, and ask a server around the answerer. `measured` hears of each step."""
    alone = BatchTimes(tuple(_shape_times(answerer, grid, measured)))
    grid = grid.measured(alone.alone)
    one_by_one = ask(answerer, grid, list(islice(cycle(pairs), ALONE)), at_once=1)
    measured("questions one by one")
    loaded = ask(answerer, grid, list(islice(cycle(pairs), TOGETHER)), AT_ONCE)
    measured(f"{AT_ONCE} questions at once")
    extras = ((seconds - alone.alone(*shape)) / shape[0] for shape, seconds in loaded.batches)
    between_s = max(0.0, loaded.whole_s - sum(seconds for _, seconds in loaded.batches)) / len(loaded.batches)
    around_s = max(0.0, statistics.median(one_by_one.beside_s) - between_s)
    return BatchTimes(alone.shapes, tuple(extras), between_s, around_s)


def steps(grid: Grid) -> int:
    """How often `measured` is called."""
    return (1 + ROUNDS) * len(shapes_to_measure(grid)) + 2


def _shape_times(answerer: QuestionAnswerer, grid: Grid, measured: Callable[[str], None]) -> list[ShapeTime]:
    """Medians of rounds over all shapes, so that what slows the host for a while slows no shape alone.

    The first round, where a backend prepares itself for each shape, does not count.
    """
    shapes = shapes_to_measure(grid)
    seconds: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for _ in range(1 + ROUNDS):
        for shape in shapes:
            batch = batch_of(*shape)
            start = time.perf_counter()
            answerer.session.run(batch)
            seconds[shape].append(time.perf_counter() - start)
            measured("x".join(map(str, shape)))
    return [ShapeTime(*shape, statistics.median(found[1:])) for shape, found in seconds.items()]
