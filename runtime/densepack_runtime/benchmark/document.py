"""The one JSON document of a benchmark, whose layout (`BENCHMARK_SCHEMA`) other tools may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from densepack_runtime.benchmark.latency import SAMPLE_SECONDS, measure_latency
from densepack_runtime.benchmark.sides import Cell, OnStep, Settings, Side, unheard
from densepack_runtime.errors import InputError
from densepack_runtime.host.machine import hardware, peak_gflops
from densepack_runtime.host.versions import package_versions

BENCHMARK_KIND = "densepack benchmark"
BENCHMARK_SCHEMA = 2


def run_benchmark(
    sides: Sequence[Side], cells: Sequence[Cell], settings: Settings | None = None, on_step: OnStep = unheard
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
