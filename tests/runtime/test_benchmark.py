"""The benchmark is tested on sessions whose speed is known: they sleep."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from densepack_runtime.benchmark import (
    BENCHMARK_KIND,
    BENCHMARK_SCHEMA,
    Cell,
    Cost,
    Side,
    latency_table,
    peak_gflops,
    ratio_table,
    run_benchmark,
    steps,
    synthetic_batch,
)
from densepack_runtime.errors import InputError
from densepack_runtime.session import Batch, Logits

# Sleeping is exact to well under a millisecond; a loaded machine adds some. Half of the true ratio is never reached.
RATIO_TOLERANCE = 0.5


class SleepingSession:
    """Takes a fixed time per token, and remembers who ran when."""

    def __init__(self, name: str, seconds_per_token: float, log: list[str]) -> None:
        self.name, self.seconds_per_token, self.log = name, seconds_per_token, log

    def run(self, batch: Batch) -> Logits:
        self.log.append(self.name)
        time.sleep(self.seconds_per_token * batch.input_ids.size)
        zeros = np.zeros(batch.shape, dtype=np.float32)
        return Logits(zeros, zeros)

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        return map(self.run, batches)

    def close(self) -> None:
        pass


def make_sides(log: list[str]) -> list[Side]:
    return [
        Side("slow", SleepingSession("slow", 6e-4, log), Cost(4000, 0), "test", "fp32"),
        Side("fast", SleepingSession("fast", 2e-4, log), Cost(1000, 0), "test", "fp32"),
    ]


def test_ratio_and_throughput_of_known_sessions() -> None:
    told: list[str] = []
    document = run_benchmark(make_sides([]), [Cell(2, 50)], rounds=3, warmup=1, on_step=told.append)
    [ratio] = document["ratios"]
    assert ratio["base"] == "slow"
    assert ratio["side"] == "fast"
    assert ratio["median"] == pytest.approx(3, rel=RATIO_TOLERANCE)
    assert ratio["flop_limit"] == 4
    assert ratio["share_of_flop_limit"] == pytest.approx(ratio["median"] / 4)
    slow, fast = document["latency"]
    assert slow["median_ms"] == pytest.approx(60, rel=RATIO_TOLERANCE)
    assert slow["windows_per_s"] == pytest.approx(2 / slow["median_ms"] * 1e3)
    assert slow["calls_per_sample"] == 2
    assert len(fast["samples_ms"]) == 3
    assert len(told) == steps(2, 1, 3)


def test_document_is_json_with_hardware_and_versions() -> None:
    document = json.loads(json.dumps(run_benchmark(make_sides([]), [Cell(1, 8)], rounds=1, warmup=1)))
    assert (document["kind"], document["schema"]) == (BENCHMARK_KIND, BENCHMARK_SCHEMA)
    assert document["hardware"]["cores"] >= 1
    assert document["hardware"]["peak_gflops"] > 0
    assert document["versions"]["numpy"] == np.__version__
    assert document["peak_memory_mib"] > 0
    for columns, rows in (latency_table(document), ratio_table(document)):
        assert rows
        assert all(len(row) == len(columns) for row in rows)


def test_rounds_are_interleaved_and_change_who_begins() -> None:
    log: list[str] = []
    sides = make_sides(log)
    cell = Cell(1, 600)  # long enough for one call a sample
    run_benchmark(sides, [cell], rounds=3, warmup=1)
    assert log[2:] == ["slow", "fast", "fast", "slow", "slow", "fast"]


@pytest.mark.parametrize(
    ("sides", "cells", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)], ids=["no side", "no cell", "no round"]
)
def test_nothing_to_measure_is_an_error(sides: int, cells: int, rounds: int) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        run_benchmark(make_sides([])[:sides], [Cell(1, 1)] * cells, rounds=rounds)


def test_sides_need_different_names() -> None:
    side = make_sides([])[0]
    with pytest.raises(InputError, match="different names"):
        run_benchmark([side, side], [Cell(1, 1)])


def test_synthetic_batch_has_no_padding_and_both_token_types() -> None:
    batch = synthetic_batch(Cell(3, 10))
    assert batch.shape == (3, 10)
    assert batch.attention_mask.all()
    assert batch.token_type_ids.sum() == 3 * 5
    assert batch.input_ids.min() > 0


def test_peak_is_that_of_a_matrix_product() -> None:
    assert 0.1 < peak_gflops(size=256, repeats=1) < 1e5
