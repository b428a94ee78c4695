"""The benchmark is tested on sessions whose speed is known: they sleep."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from densepack_runtime.benchmark import document
from densepack_runtime.benchmark import latency as benchmark
from densepack_runtime.benchmark.document import BENCHMARK_KIND, BENCHMARK_SCHEMA, run_benchmark
from densepack_runtime.benchmark.latency import latency_steps
from densepack_runtime.benchmark.sides import Cell, Settings, Side, settle, synthetic_batch
from densepack_runtime.benchmark.statistics import percentiles_ms, ratios, spread
from densepack_runtime.benchmark.tables import latency_table, ratio_table
from densepack_runtime.errors import InputError
from densepack_runtime.host.machine import peak_gflops
from densepack_runtime.sessions.session import Batch, Logits
from densepack_runtime.structure import Cost
from tests.sleeping_session import Clock, SleepingSession

PEAK = 100.0  # GFLOP/s
QUICK = Settings(rounds=1, warmup=1, settle_ms=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(document, "peak_gflops", lambda: PEAK)
    return Clock.installed(monkeypatch)


def make_sides(log: list[str]) -> list[Side]:
    return [
        Side("slow", SleepingSession("slow", 6e-4, log), Cost(4000, 0), "test", "fp32"),
        Side("fast", SleepingSession("fast", 2e-4, log), Cost(1000, 0), "test", "fp32", on_gpu=True),
    ]


def test_ratio_and_throughput_of_known_sessions(clock: Clock) -> None:
    told: list[str] = []
    settings = Settings(rounds=3, warmup=1, settle_ms=0)
    document = run_benchmark(make_sides([]), [Cell(2, 50)], settings, told.append)
    [ratio] = document["ratios"]
    assert ratio["base"] == "slow"
    assert ratio["side"] == "fast"
    assert ratio["median"] == pytest.approx(3)
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert ratio["flop_limit"] == 4
    assert ratio["share_of_flop_limit"] == pytest.approx(ratio["median"] / 4)
    slow, fast = document["latency"]
    assert slow["median_ms"] == pytest.approx(60)
    assert slow["windows_per_s"] == pytest.approx(2 / 0.06)
    assert slow["tokens_per_s"] == pytest.approx(50 * slow["windows_per_s"])
    assert slow["share_of_peak"] == pytest.approx(2 * 50 * 4000 / 0.06 / 1e9 / PEAK)
    assert slow["calls_per_sample"] == 2
    assert slow["calls"] == 6
    assert len(fast["samples_ms"]) == 3
    assert fast["share_of_peak"] is None  # the peak is the processor's
    assert len(told) == latency_steps(2, 1, settings)


class HiccupingSession(SleepingSession):
    """Every fifth call takes twenty times as long."""

    calls = 0

    def run(self, batch: Batch) -> Logits:
        self.calls += 1
        if self.calls % 5 == 0:
            time.sleep(19 * self.seconds_per_token * batch.input_ids.size)
        return super().run(batch)


def test_percentiles_are_those_of_calls_and_not_of_rounds(clock: Clock) -> None:
    side = Side("hiccups", HiccupingSession("hiccups", 5e-4), Cost(1, 0))
    [row] = run_benchmark([side], [Cell(1, 10)], Settings(rounds=3, warmup=2, settle_ms=0))["latency"]
    assert (row["calls_per_sample"], row["calls"]) == (20, 60)
    assert (row["median_ms"], row["max_ms"]) == pytest.approx((5, 5))  # no round is slow
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"]) == pytest.approx((5, 100, 100))  # but a fifth of calls is


def test_statistics_of_known_values() -> None:
    assert percentiles_ms([number / 1e3 for number in range(101)]) == pytest.approx(
        {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99}
    )
    assert spread([1.0]) == 0
    assert spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    found = ratios([2, 4, 9], [1, 1, 3], 5)
    assert (found["median"], found["min"], found["max"]) == (3, 2, 4)
    assert found["share_of_flop_limit"] == pytest.approx(0.6)


def test_document_is_json_with_hardware_and_versions() -> None:
    document = json.loads(json.dumps(run_benchmark(make_sides([]), [Cell(1, 8)], QUICK)))
    assert (document["kind"], document["schema"]) == (BENCHMARK_KIND, BENCHMARK_SCHEMA)
    assert document["hardware"]["cores"] >= document["hardware"]["physical_cores"] >= 1
    assert document["hardware"]["peak_gflops"] > 0
    assert document["versions"]["numpy"] == np.__version__
    assert document["settings"]["settle_ms"] == 0
    assert document["peak_memory_mib"] > 0
    for columns, rows in (latency_table(document), ratio_table(document)):
        assert rows
        assert all(len(row) == len(columns) for row in rows)


def test_rounds_are_interleaved_and_every_sample_begins_with_a_pause(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(benchmark, "SAMPLE_SECONDS", 0)  # one timed call a sample
    monkeypatch.setattr(benchmark, "settle", lambda milliseconds: log.append(f"pause {milliseconds}"))
    run_benchmark(make_sides(log), [Cell(1, 1)], Settings(rounds=3, warmup=1, settle_ms=7))
    assert log[:2] == ["slow", "fast"]
    samples = [log[start : start + 3] for start in range(2, len(log), 3)]
    assert samples == [["pause 7", name, name] for name in ("slow", "fast", "fast", "slow", "slow", "fast")]


def test_the_pause_is_in_milliseconds(clock: Clock) -> None:
    settle(20)
    assert clock.now == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("sides", "cells", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)], ids=["no side", "no cell", "no round"]
)
def test_nothing_to_measure_is_an_error(sides: int, cells: int, rounds: int) -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        run_benchmark(make_sides([])[:sides], [Cell(1, 1)] * cells, Settings(rounds=rounds))


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


def test_resident_memory_sees_a_large_array() -> None:
    grown = """
import mmap
from densepack_runtime.host.machine import peak_resident_mib, resident_mib
before = resident_mib()
with mmap.mmap(-1, 64 * 2**20) as pages:  # what numpy allocates may be memory that the process has already
    for byte in range(0, len(pages), mmap.PAGESIZE):
        pages[byte] = 1
    after = resident_mib()
print(before, after, peak_resident_mib())
"""  # in a process of its own: other threads of this one allocate, too
    done = subprocess.run([sys.executable, "-c", grown], capture_output=True, text=True, check=True)
    if "None" in done.stdout:
        pytest.skip("this system does not tell how much memory of a process is in RAM")
    before, after, peak = map(float, done.stdout.split())
    assert after - before == pytest.approx(64, rel=0.1)
    assert peak > after - 1  # the kernel keeps both only roughly
