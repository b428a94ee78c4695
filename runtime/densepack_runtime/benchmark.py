"""Side by side: latency and throughput of several sessions on the same batches, in interleaved rounds.

Machines are shared and noisy, so nothing is compared across runs: in every round each side runs once on each cell
(batch, length), in an order that changes from round to round, and the ratio of two sides is the median of the ratios
round by round.

    report = run_benchmark([Side("dense", dense, cost), Side("packed", packed, cost)], [Cell(8, 384)], rounds=5)
    report["ratios"][0]["median"]

The result is one JSON document whose layout (`BENCHMARK_SCHEMA`) other tools may rely on.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from densepack_runtime.errors import InputError
from densepack_runtime.session import Batch, Session
from densepack_runtime.versions import package_versions

BENCHMARK_KIND = "densepack benchmark"
BENCHMARK_SCHEMA = 1
# A sample of a fast cell repeats the call until it lasts this long: below that, timer and scheduler show through.
SAMPLE_SECONDS = 0.1
PEAK_MATMUL_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating point operations of one window of S tokens: per_token * S + per_token_pair * S**2."""

    per_token: int
    per_token_pair: int

    def flops(self, length: int) -> int:
        return self.per_token * length + self.per_token_pair * length**2


@dataclass(frozen=True, slots=True)
class Side:
    """One contestant. `backend` and `precision` are for the reader of the report."""

    name: str
    session: Session
    cost: Cost
    backend: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of the table: windows in a batch, tokens in a window (no padding)."""

    batch: int
    length: int


@dataclass
class _Timing:
    calls: int = 1
    seconds: list[float] = field(default_factory=list)  # per call, one entry a round


def run_benchmark(
    sides: Sequence[Side],
    cells: Sequence[Cell],
    *,
    rounds: int = 5,
    warmup: int = 2,
    seed: int = 0,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time every side on every cell and compare all of them with the first one. Returns the JSON document.

    `on_step` is told what is being timed, for a progress bar. Raises InputError without sides, cells or rounds.
    """
    if not sides or not cells or rounds < 1:
        raise InputError(f"nothing to measure: {len(sides)} sides, {len(cells)} cells, {rounds} rounds")
    if len({side.name for side in sides}) != len(sides):
        raise InputError(f"sides need different names, got {[side.name for side in sides]}")
    batches = {cell: synthetic_batch(cell, seed=seed) for cell in cells}
    timings = {(side.name, cell): _Timing() for cell in cells for side in sides}
    gflops = peak_gflops()
    for side, cell in ((side, cell) for cell in cells for side in sides):
        _notify(on_step, f"warm-up {side.name} {cell.batch}x{cell.length}")
        timings[side.name, cell].calls = _warm_up(side.session, batches[cell], warmup)
    for number in range(rounds):
        for side, cell in _interleaved(sides, cells, number):
            _notify(on_step, f"round {number + 1} {side.name} {cell.batch}x{cell.length}")
            timing = timings[side.name, cell]
            timing.seconds.append(_time_calls(side.session, batches[cell], timing.calls))
    return {
        "kind": BENCHMARK_KIND,
        "schema": BENCHMARK_SCHEMA,
        "hardware": {**hardware(), "peak_gflops": gflops},
        "versions": package_versions(),
        "settings": {"rounds": rounds, "warmup": warmup, "seed": seed, "sample_seconds": SAMPLE_SECONDS},
        "sides": [
            {"name": side.name, "backend": side.backend, "precision": side.precision, "cost": asdict(side.cost)}
            for side in sides
        ],
        "latency": [_latency_row(side, cell, timings[side.name, cell], gflops) for cell in cells for side in sides],
        "ratios": [
            _ratio_row(sides[0], side, cell, timings[sides[0].name, cell], timings[side.name, cell])
            for cell in cells
            for side in sides[1:]
        ],
        "peak_memory_mib": peak_memory_mib(),
    }


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


def _notify(on_step: Callable[[str], None] | None, text: str) -> None:
    if on_step is not None:
        on_step(text)


def steps(sides: int, cells: int, rounds: int) -> int:
    """How often `on_step` will be called."""
    return sides * cells * (rounds + 1)


def _interleaved(sides: Sequence[Side], cells: Sequence[Cell], number: int) -> Iterator[tuple[Side, Cell]]:
    """Every side on every cell once; the side that begins changes with the round."""
    turn = number % len(sides)
    for cell in cells:
        for side in (*sides[turn:], *sides[:turn]):
            yield side, cell


def _warm_up(session: Session, batch: Batch, warmup: int) -> int:
    """Run until warm; returns how many calls make a sample of SAMPLE_SECONDS."""
    for _ in range(max(warmup, 1) - 1):
        session.run(batch)
    seconds = _time_calls(session, batch, 1)
    return max(1, round(SAMPLE_SECONDS / seconds))


def _time_calls(session: Session, batch: Batch, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        session.run(batch)
    return (time.perf_counter() - start) / calls


def _latency_row(side: Side, cell: Cell, timing: _Timing, gflops: float) -> dict[str, Any]:
    middle = median(timing.seconds)
    flops = cell.batch * side.cost.flops(cell.length)
    return {
        "side": side.name,
        **asdict(cell),
        "median_ms": middle * 1e3,
        "min_ms": min(timing.seconds) * 1e3,
        "max_ms": max(timing.seconds) * 1e3,
        "spread": _spread(timing.seconds),
        "windows_per_s": cell.batch / middle,
        "tokens_per_s": cell.batch * cell.length / middle,
        "gflops": flops / middle / 1e9,
        "share_of_peak": flops / middle / 1e9 / gflops,
        "calls_per_sample": timing.calls,
        "samples_ms": [seconds * 1e3 for seconds in timing.seconds],
    }


def _ratio_row(base: Side, side: Side, cell: Cell, base_timing: _Timing, timing: _Timing) -> dict[str, Any]:
    ratios = [slow / fast for slow, fast in zip(base_timing.seconds, timing.seconds, strict=True)]
    limit = base.cost.flops(cell.length) / side.cost.flops(cell.length)
    middle = median(ratios)
    return {
        "base": base.name,
        "side": side.name,
        **asdict(cell),
        "median": middle,
        "min": min(ratios),
        "max": max(ratios),
        "flop_limit": limit,
        "share_of_flop_limit": middle / limit,
    }


def latency_table(document: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the timings in a benchmark document."""
    columns = ("side", "batch x length", "median ms", "spread", "windows/s", "tokens/s", "GFLOP/s", "of peak")
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            f"{row['batch']}x{row['length']}",
            f"{row['median_ms']:.2f}",
            f"{100 * row['spread']:.1f} %",
            f"{row['windows_per_s']:.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['gflops']:.1f}",
            f"{100 * row['share_of_peak']:.0f} %",
        )
        for row in document["latency"]
    ]
    return columns, rows


def ratio_table(document: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the ratios in a benchmark document."""
    columns = ("side", "batch x length", "times as fast", "lowest", "highest", "FLOP limit", "of limit")
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            f"{row['batch']}x{row['length']}",
            f"{row['median']:.2f}",
            f"{row['min']:.2f}",
            f"{row['max']:.2f}",
            f"{row['flop_limit']:.2f}",
            f"{100 * row['share_of_flop_limit']:.0f} %",
        )
        for row in document["ratios"]
    ]
    return columns, rows


def _spread(values: Sequence[float]) -> float:
    """Interquartile range over median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def peak_gflops(size: int = PEAK_MATMUL_SIZE, repeats: int = 3) -> float:
    """What a float32 matrix product of numpy reaches here with its own threads, in GFLOP/s (best of `repeats`)."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), dtype=np.float32)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        np.matmul(left, left)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e9


def hardware() -> dict[str, Any]:
    """Processor, cores and memory of this host."""
    return {
        "processor": _processor_name(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, in MiB (0 where the system does not tell)."""
    if sys.platform == "win32":  # it has no resource module
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
