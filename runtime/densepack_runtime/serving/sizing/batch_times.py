"""How long batches take on this host, alone and with what a server does around them.

    times = measure(answerer, grid, pairs)
    times.seconds(rows=8, length=384)

Every shape is run alone; then questions are asked through the server's own application, without a network, first one
after another and then many at once: what they take beyond the model is what the server costs.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.grid import FEW_ROWS, LENGTH_STEP, Grid
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.sessions.session import Batch

TIMES = Document("the file of times", InputError, "give another file to --times")
ROUNDS = 3
# How many questions tell what a server costs, and how many come at once.
ALONE, TOGETHER, AT_ONCE = 24, 256, 64


@dataclass(frozen=True, slots=True)
class ShapeTime:
    """Seconds that a batch of this shape takes with nothing else running."""

    rows: int
    length: int
    seconds: float


@dataclass(frozen=True)
class BatchTimes:
    """Times of batches, and what a server adds: a batch takes `stretch` times as long while questions come and go and
    `between_s` pass before the next; `around_s` pass for a question that comes alone, beside the model.
    """

    shapes: tuple[ShapeTime, ...]
    stretch: float
    between_s: float
    around_s: float

    def seconds(self, rows: int, length: int) -> float:
        """Of one batch among others, interpolated between the shapes that were measured."""
        return self.stretch * self.alone(rows, length) + self.between_s

    def alone(self, rows: int, length: int) -> float:
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
    """Run every shape, and questions through the server's application. `measured` hears of each step."""
    alone = BatchTimes(tuple(_shape_times(answerer, grid, measured)), 1.0, 0.0, 0.0)
    served = asyncio.run(_served(answerer, grid, list(islice(cycle(pairs), ALONE)), at_once=1))
    measured("questions one by one")
    around = statistics.median(served.outside)
    loaded = asyncio.run(_served(answerer, grid, list(islice(cycle(pairs), TOGETHER)), at_once=AT_ONCE))
    measured(f"{AT_ONCE} questions at once")
    expected = sum(alone.alone(*shape) for shape, _ in loaded.batches)
    inside = sum(seconds for _, seconds in loaded.batches)
    between = (loaded.whole_s - inside) / len(loaded.batches)
    return BatchTimes(alone.shapes, inside / expected, max(0.0, between), around)


def steps(grid: Grid) -> int:
    """How often `measured` is called."""
    return len(shapes_to_measure(grid)) + 2


def _shape_times(answerer: QuestionAnswerer, grid: Grid, measured: Callable[[str], None]) -> Iterator[ShapeTime]:
    for rows, length in shapes_to_measure(grid):
        ones = np.ones((rows, length), dtype=np.int64)
        batch = Batch(ones, ones, np.zeros_like(ones))
        answerer.session.run(batch)  # what a backend does at the first of a shape
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            answerer.session.run(batch)
            seconds.append(time.perf_counter() - start)
        measured(f"{rows}x{length}")
        yield ShapeTime(rows, length, statistics.median(seconds))


@dataclass(frozen=True, slots=True)
class _Served:
    """Shapes and seconds of the batches; seconds of each question beyond the model's."""

    batches: list[tuple[tuple[int, int], float]]
    outside: list[float]
    whole_s: float


async def _served(answerer: QuestionAnswerer, grid: Grid, pairs: Sequence[Pair], at_once: int) -> _Served:
    batches: list[tuple[tuple[int, int], float]] = []
    with Batcher(answerer, grid, ran=lambda batch, seconds: batches.append((batch.shape, seconds))) as batcher:
        service = Service(Model(answerer, batcher, "", {}, answerer.session), Metrics(), warmed=True)
        application, waiting = application_of(service), iter(pairs)
        outside: list[float] = []

        async def client() -> None:
            for pair in waiting:
                start = time.perf_counter()
                model_s = await _ask(application, pair)
                outside.append(time.perf_counter() - start - model_s)

        start = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        return _Served(batches, outside, time.perf_counter() - start)


async def _ask(application: Any, pair: Pair) -> float:
    """Ask the application as a server would; how long the model ran. Raises BackendError with what it answers else."""
    body = json.dumps({"question": pair[0], "context": pair[1]}).encode()
    coming, told = [{"type": "http.request", "body": body, "more_body": False}], []
    open_until = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        await open_until.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/answer",
        "query_string": b"",
        "headers": [],
        "root_path": "",
    }
    await application(scope, receive, send)
    open_until.set()
    headers = {name.decode().lower(): value.decode() for name, value in told[0]["headers"]}
    if told[0]["status"] != 200:
        raise BackendError(f"a question of the file is not answered: {told[1]['body'].decode()}")
    steps = dict(step.split(";dur=") for step in headers["server-timing"].split(", "))
    return float(steps["model"]) / 1000
