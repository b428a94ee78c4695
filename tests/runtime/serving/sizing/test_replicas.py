"""How many servers: the fewest that keep the time, and a refusal where none can."""

from __future__ import annotations

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.serving.sizing.replicas import size, tries
from densepack_runtime.serving.sizing.simulation import Simulation
from tests.runtime.serving.sizing.test_simulation import GRID, TIMES

SIMULATION = Simulation(GRID, TIMES)
QUESTIONS = [[32], [48], [48, 40], [20]]


def test_the_fewest_replicas_that_keep_the_time() -> None:
    told: list[str] = []
    fleet = size(SIMULATION, QUESTIONS, rate=5000, p99_s=0.06, tried=told.append)
    assert len(told) == tries()
    assert fleet.rate * fleet.replicas == pytest.approx(5000)
    assert fleet.simulated.p99_s <= 0.06
    assert 5000 / (fleet.replicas - 1) > fleet.most  # one fewer would have more than it can do in time
    assert SIMULATION.at_rate([[48, 40]] * 4000, 1.2 * fleet.saturated).p99_s > 0.06
    assert fleet.most < fleet.saturated


def test_less_time_needs_more() -> None:
    counts = [size(SIMULATION, QUESTIONS, 5000, p99_s).replicas for p99_s in (0.2, 0.03)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_time_that_nobody_can_keep_is_refused() -> None:
    with pytest.raises(
        InputError, match="no number of replicas answers 99 of 100 within 5 ms: alone they take up to 10"
    ):
        size(SIMULATION, QUESTIONS, 1, 0.005)
