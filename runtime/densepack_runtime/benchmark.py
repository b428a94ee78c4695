"""Side by side: latency and throughput of several sessions on the same batches, in interleaved rounds.

Machines are shared and noisy, so nothing is compared across runs: in every round each side runs once on each cell
(batch, length), in an order that changes from round to round, and the ratio of two sides is the median of the ratios
round by round. A side's threads may still spin when the next one begins, so every sample begins with a pause and a call
that is not timed.

    report = run_benchmark([Side("dense", dense, cost), Side("packed", packed, cost)], [Cell(8, 384)])
    report["ratios"][0]["median"]

The result is one JSON document whose layout (`BENCHMARK_SCHEMA`) other tools may rely on. `benchmark_squad` and
`benchmark_growth` have its other sections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from densepack_runtime.batching import Batching, batching_of
from densepack_runtime.benchmark_statistics import percentiles_ms, ratios, spread
from densepack_runtime.errors import InputError
from densepack_runtime.machine import hardware, peak_gflops, peak_resident_mib
from densepack_runtime.session import Batch, Session
from densepack_runtime.versions import package_versions
from densepack_runtime.windows import DOC_STRIDE, MAX_LENGTH, Windower

BENCHMARK_KIND = "densepack benchmark"
BENCHMARK_SCHEMA = 2
# A sample of a fast cell repeats the call until it lasts this long: below that, timer and scheduler show through.
SAMPLE_SECONDS = 0.1

OnStep = Callable[[str], None]
OpenSession = Callable[[int | None], Session]


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating point operations of one window of S tokens: per_token * S + per_token_pair * S**2."""

    per_token: int
    per_token_pair: int

    def flops(self, length: int) -> int:
        return self.per_token * length + self.per_token_pair * length**2


@dataclass(frozen=True, slots=True)
class Texts:
    """How texts become windows for a side: its tokenizer.json, tokens in a window, tokens that neighbours share."""

    tokenizer_json: str
    max_length: int = MAX_LENGTH
    doc_stride: int = DOC_STRIDE

    def windower(self) -> Windower:
        return Windower(self.tokenizer_json, max_length=self.max_length, doc_stride=self.doc_stride)


@dataclass(frozen=True, slots=True)
class Side:
    """One contestant. `backend` and `precision` are for the reader of the report.

    `texts` is needed to measure on SQuAD. `open_again` opens the same session in another process, given a number of
    threads (None: its default); it can be pickled, and is needed to measure memory and how cost grows. The share of the
    peak is told for sides that run on the CPU, whose peak is known.
    """

    name: str
    session: Session
    cost: Cost
    backend: str = ""
    precision: str = ""
    on_gpu: bool = False
    random_weights: bool = False
    texts: Texts | None = None
    open_again: OpenSession | None = None

    @property
    def batching(self) -> Batching:
        """How windows become batches where questions are answered, as `QuestionAnswerer.open` has it."""
        return batching_of(self.backend, self.precision, on_gpu=self.on_gpu)


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of the table: windows in a batch, tokens in a window (no padding)."""

    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is measured: interleaved rounds, calls before the first of them, the pause before a sample, and the seed
    of synthetic inputs.
    """

    rounds: int = 5
    warmup: int = 2
    settle_ms: float = 50.0
    seed: int = 0


@dataclass
class _Timing:
    calls: int = 1  # timed calls in a sample
    rounds: list[list[float]] = field(default_factory=list)  # seconds of every timed call, by round

    @property
    def samples(self) -> list[float]:
        """The median call of every round, in seconds."""
        return [median(calls) for calls in self.rounds]


def run_benchmark(
    sides: Sequence[Side], cells: Sequence[Cell], settings: Settings | None = None, on_step: OnStep | None = None
) -> dict[str, Any]:
    """Time every side on every cell and compare all of them with the first one. Returns the JSON document.

    `on_step` is told what is being timed, for a progress bar. Raises InputError without sides, cells or rounds.
    """
    settings = settings or Settings()
    document = benchmark_document(sides, settings)
    document |= measure_latency(sides, cells, settings, document["hardware"]["peak_gflops"], on_step)
    return document


def benchmark_document(sides: Sequence[Side], settings: Settings, command: str | None = None) -> dict[str, Any]:
    """The document without any measurement but the peak of this machine. `command` is what made it.

    Raises InputError without sides or rounds, or when two sides have one name.
    """
    if not sides or settings.rounds < 1:
        raise InputError(f"nothing to measure: {len(sides)} sides, {settings.rounds} rounds")
    if len({side.name for side in sides}) != len(sides):
        raise InputError(f"sides need different names, got {[side.name for side in sides]}")
    return {
        "kind": BENCHMARK_KIND,
        "schema": BENCHMARK_SCHEMA,
        "command": command,
        "hardware": {**hardware(), "peak_gflops": peak_gflops()},
        "versions": package_versions(),
        "settings": {**asdict(settings), "sample_seconds": SAMPLE_SECONDS},
        "sides": [
            {
                "name": side.name,
                "backend": side.backend,
                "precision": side.precision,
                "weights": "random" if side.random_weights else "trained",
                "cost": asdict(side.cost),
            }
            for side in sides
        ],
    }


def measure_latency(
    sides: Sequence[Side],
    cells: Sequence[Cell],
    settings: Settings,
    peak: float,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """The sections `latency` and `ratios`, and the peak memory of this process. `peak` is in GFLOP/s.

    Raises InputError without cells.
    """
    if not cells:
        raise InputError("nothing to measure: no batch sizes and lengths")
    batches = {cell: synthetic_batch(cell, seed=settings.seed) for cell in cells}
    timings = {(side.name, cell): _Timing() for cell in cells for side in sides}
    for side, cell in ((side, cell) for cell in cells for side in sides):
        notify(on_step, f"warm-up {side.name} {cell}")
        timings[side.name, cell].calls = _warm_up(side.session, batches[cell], settings.warmup)
    for number in range(settings.rounds):
        for side, cell in _interleaved(sides, cells, number):
            notify(on_step, f"round {number + 1} {side.name} {cell}")
            timing = timings[side.name, cell]
            timing.rounds.append(_sample(side.session, batches[cell], timing.calls, settings.settle_ms))
    return {
        "latency": [_latency_row(side, cell, timings[side.name, cell], peak) for cell in cells for side in sides],
        "ratios": [
            _ratio_row(sides[0], side, cell, timings[sides[0].name, cell], timings[side.name, cell])
            for cell in cells
            for side in sides[1:]
        ],
        "peak_memory_mib": peak_resident_mib(),
    }


def latency_steps(sides: int, cells: int, settings: Settings) -> int:
    """How often `on_step` will be called."""
    return sides * cells * (settings.rounds + 1)


def synthetic_batch(cell: Cell, *, seed: int = 0) -> Batch:
    """A batch without padding: random tokens, the second half of each row being context."""
    rng = np.random.default_rng(seed)
    shape = (cell.batch, cell.length)
    token_types = np.zeros(shape, dtype=np.int64)
    token_types[:, cell.length // 2 :] = 1
    return Batch(
        input_ids=rng.integers(1, 1000, size=shape, dtype=np.int64),
        attention_mask=np.ones(shape, dtype=np.int64),
        token_type_ids=token_types,
    )


def notify(on_step: OnStep | None, text: str) -> None:
    """Tell who listens, if anybody does."""
    if on_step is not None:
        on_step(text)


def in_turn(sides: Sequence[Side], number: int) -> Sequence[Side]:
    """Every side once; the one that begins changes with the round."""
    turn = number % len(sides)
    return (*sides[turn:], *sides[:turn])


def settle(milliseconds: float) -> None:
    """Wait until the threads of the side before have stopped spinning."""
    time.sleep(milliseconds / 1e3)


def _interleaved(sides: Sequence[Side], cells: Sequence[Cell], number: int) -> Iterator[tuple[Side, Cell]]:
    for cell in cells:
        for side in in_turn(sides, number):
            yield side, cell


def _warm_up(session: Session, batch: Batch, warmup: int) -> int:
    """Run until warm; returns how many calls make a sample of SAMPLE_SECONDS."""
    for _ in range(max(warmup, 1) - 1):
        session.run(batch)
    return max(1, round(SAMPLE_SECONDS / _seconds(session, batch)))


def _sample(session: Session, batch: Batch, calls: int, settle_ms: float) -> list[float]:
    """Seconds of so many calls, after a pause and one call that is not timed."""
    settle(settle_ms)
    session.run(batch)
    return [_seconds(session, batch) for _ in range(calls)]


def _seconds(session: Session, batch: Batch) -> float:
    start = time.perf_counter()
    session.run(batch)
    return time.perf_counter() - start


def _latency_row(side: Side, cell: Cell, timing: _Timing, peak: float) -> dict[str, Any]:
    samples = timing.samples
    calls = [seconds for round_ in timing.rounds for seconds in round_]
    middle = median(samples)
    gflops = cell.batch * side.cost.flops(cell.length) / middle / 1e9
    return {
        "side": side.name,
        **asdict(cell),
        "median_ms": middle * 1e3,
        "min_ms": min(samples) * 1e3,
        "max_ms": max(samples) * 1e3,
        "spread": spread(samples),
        **percentiles_ms(calls),
        "windows_per_s": cell.batch / middle,
        "tokens_per_s": cell.batch * cell.length / middle,
        "gflops": gflops,
        "share_of_peak": None if side.on_gpu else gflops / peak,
        "calls": len(calls),
        "calls_per_sample": timing.calls,
        "samples_ms": [seconds * 1e3 for seconds in samples],
    }


def _ratio_row(base: Side, side: Side, cell: Cell, base_timing: _Timing, timing: _Timing) -> dict[str, Any]:
    limit = base.cost.flops(cell.length) / side.cost.flops(cell.length)
    return {
        "base": base.name,
        "side": side.name,
        **asdict(cell),
        **ratios(base_timing.samples, timing.samples, limit),
    }
