"""Side by side: latency and throughput of several sessions on the same batches, in interleaved rounds.

Machines are shared and noisy, so nothing is compared across runs: in every round each side runs once on each cell
(batch, length), in an order that changes from round to round, and the ratio of two sides is the median of the ratios
round by round. A side's threads may still spin when the next one begins, so every sample begins with a pause and a call
that is not timed.

    report = run_benchmark([Side("dense", dense, cost), Side("packed", packed, cost)], [Cell(8, 384)])
    report["ratios"][0]["median"]

`document` puts this into the one JSON document of a benchmark; `end_to_end`, `growth` and `memory` make its other
sections.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from densepack_runtime.benchmark.sides import Cell, OnStep, Settings, Side, in_turn, settle, synthetic_batch, unheard
from densepack_runtime.benchmark.statistics import percentiles_ms, ratios, spread
from densepack_runtime.errors import InputError
from densepack_runtime.host.machine import peak_resident_mib
from densepack_runtime.sessions.session import Batch, Session

# A sample of a fast cell repeats the call until it lasts this long: below that, timer and scheduler show through.
SAMPLE_SECONDS = 0.1


@dataclass
class _Timing:
    calls: int = 1  # timed calls in a sample
    rounds: list[list[float]] = field(default_factory=list)  # seconds of every timed call, by round

    @property
    def samples(self) -> list[float]:
        """The median call of every round, in seconds."""
        return [median(calls) for calls in self.rounds]


def measure_latency(
    sides: Sequence[Side],
    cells: Sequence[Cell],
    settings: Settings,
    peak: float,
    on_step: OnStep = unheard,
) -> dict[str, Any]:
    """The sections `latency` and `ratios`, and the peak memory of this process. `peak` is in GFLOP/s.

    Raises InputError without cells.
    """
    if not cells:
        raise InputError("nothing to measure: no batch sizes and lengths")
    batches = {cell: synthetic_batch(cell, seed=settings.seed) for cell in cells}
    timings = {(side.name, cell): _Timing() for cell in cells for side in sides}
    for side, cell in ((side, cell) for cell in cells for side in sides):
        on_step(f"warm-up {side.name} {cell}")
        timings[side.name, cell].calls = _warm_up(side.session, batches[cell], settings.warmup)
    for number in range(settings.rounds):
        for side, cell in _interleaved(sides, cells, number):
            on_step(f"round {number + 1} {side.name} {cell}")
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
