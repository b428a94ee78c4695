"""What is simulated is the server's own line, and times add up."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving import line
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.line import REACH
from densepack_runtime.serving.sizing.batch_times import BatchTimes, ShapeTime
from densepack_runtime.serving.sizing.simulation import Simulation
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.session import Batch
from tests.runtime.serving.test_batcher import LONGEST, Gated, document, short

GRID = Grid.of(Batching(few_shapes=True), LONGEST)
# A batch takes 10 ms and a microsecond for each padded token, and twice that where another lane has one.
TIMES = BatchTimes(
    tuple(
        ShapeTime(rows, length, 0.01 + 1e-6 * rows * length, 0.02 + 2e-6 * rows * length)
        for rows, length in GRID.shapes()
    )
)


def alone(rows: int, length: int) -> float:
    """Seconds of a batch, without what a server adds."""
    return TIMES.seconds(rows, length, 0)[0]


def test_times_are_interpolated() -> None:
    for rows, length in [(1, 48), (64, 32), (5, 32), (7, 40), (10, 48)]:
        wanted = 0.01 + 1e-6 * rows * length
        assert TIMES.seconds(rows, length, 0) == pytest.approx((wanted, 2 * wanted))
    assert alone(64, 48) == pytest.approx(alone(32, 48) * 64 / 32)  # it is over the budget there


def test_what_a_server_adds_to_a_batch() -> None:
    served = replace(TIMES, extras=(0.001, 0.003), between_s=0.002)
    for number, extra in enumerate((0.001, 0.003, 0.001)):
        found, bare = served.seconds(2, 32, number), TIMES.seconds(2, 32, number)
        assert np.subtract(found, bare) == pytest.approx([2 * extra + 0.002] * 2)
        assert served.beyond(2, 32, bare[1] + 2 * extra) == pytest.approx(extra)
    assert replace(TIMES, lanes=2).cost(8, 48) == pytest.approx(alone(8, 48))  # both in twice the time


def test_a_question_alone_takes_what_a_batch_and_the_server_take() -> None:
    times = BatchTimes(TIMES.shapes, between_s=0.001, around_s=0.005)
    found = Simulation(GRID, times).over_connections([[32]] * 50, 1)
    each = 0.005 + 0.001 + alone(1, 32)
    assert found.seconds == pytest.approx([each] * 50)
    assert found.rate == pytest.approx(1 / each)
    assert found.busy == pytest.approx((each - 0.005) / each, rel=0.01)


def test_many_at_once_share_batches() -> None:
    found = Simulation(GRID, TIMES).over_connections([[32]] * 128, 128)
    assert found.shapes == [(64, 32)] * 2
    assert found.whole_s == pytest.approx(2 * alone(64, 32))
    assert found.p99_s == pytest.approx(found.whole_s)


def test_batches_that_run_at_once_share_the_host() -> None:
    """The second comes while the first is run: from then on both take twice as long."""
    one, two = (Simulation(GRID, replace(TIMES, lanes=lanes)).at_rate([[32]] * 2, 200.0, seed=1) for lanes in (1, 2))
    whole, chance = alone(1, 32), random.Random(1)
    _, apart = (chance.expovariate(200.0) for _ in range(2))
    assert 0 < apart < whole
    assert two.seconds == pytest.approx([2 * whole - apart] * 2)
    assert one.seconds == pytest.approx([whole, 2 * whole - apart])
    assert [one.whole_s, one.busy_s, two.whole_s, two.busy_s] == pytest.approx([2 * whole] * 4)


@pytest.mark.parametrize(("reach", "keeps"), [(REACH, True), (1e9, False)])
def test_batches_make_hardly_anybody_wait_longer(reach: float, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many lengths over many connections, beside batches of one; those who may be passed by anybody do wait."""
    grid, chance = Grid.of(Batching(few_shapes=True), 384), random.Random(2)
    times = BatchTimes(
        tuple(ShapeTime(*shape, *[0.001 + 5e-5 * math.prod(shape)] * 2) for shape in grid.shapes()), between_s=0.001
    )
    questions = [[chance.choice((30, 70, 150, 150, 170, 190, 380))] for _ in range(1500)]
    monkeypatch.setattr(line, "REACH", reach)
    ones, ours = (Simulation(one, times).over_connections(questions, 64) for one in (replace(grid, rows=(1,)), grid))
    assert ours.rate > 1.1 * ones.rate
    assert (ours.p99_s < 1.15 * ones.p99_s) is keeps


def test_what_comes_slowly_waits_for_nobody() -> None:
    found = Simulation(GRID, TIMES).at_rate([[32]] * 500, rate=2.0, seed=3)
    assert found.rate == pytest.approx(2.0, rel=0.1)
    assert found.p50_s == pytest.approx(alone(1, 32))
    assert found.p99_s < 2 * alone(1, 32)


def test_a_long_document_waits_for_its_last_window() -> None:
    found = Simulation(GRID, TIMES).over_connections([[48] * 100, [32]], 2)
    document, one = sorted(found.seconds, reverse=True)
    assert document == pytest.approx(sum(alone(*shape) for shape in found.shapes))
    assert one < document / 2


def test_the_simulated_batches_are_the_batchers(windower: Windower) -> None:
    """The same questions, all in line before the first of them is taken."""
    chance = random.Random(5)
    asked = [document(chance.choice((1, 2, 9))) if chance.random() < 0.3 else short(number) for number in range(90)]
    ran: list[Batch] = []
    gated = Gated(windower, few_shapes=True, ran=lambda batch, _: ran.append(batch))
    try:
        gated.ask(short(0))
        gated.reached.acquire()  # what comes now stands in line until this first batch is done
        gated.ask(*asked)
        gated.allow()
        gated.batcher.ask([short(1)], 1e9)[0].result(30)
    finally:
        gated.allow()
        gated.batcher.close()
    windows = list(windower.windows_of([(one.question, one.context) for one in asked]))
    lengths = [[window.length for window in ours] for ours in windows]
    simulated = Simulation(GRID, TIMES).over_connections(lengths, len(lengths))
    assert [batch.shape for batch in ran[1:]][: len(simulated.shapes) - 1] == simulated.shapes[:-1]
