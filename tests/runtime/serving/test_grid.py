"""Batches have few shapes, fit the budget, and always take the first in line."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densepack_runtime.serving.grid import (
    BATCH_COST,
    MOST_COST,
    TIMED_LENGTH,
    TIMED_RUNS,
    Grid,
    seconds_of,
    warm,
)
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.fake_session import FakeSession
from densepack_runtime.sessions.lanes import Lanes

FEW = Grid.of(Batching(few_shapes=True), 384)
ANY = Grid.of(Batching(), 384)


@given(st.lists(st.integers(8, 384), min_size=1, max_size=64), st.sampled_from([FEW, ANY]))
def test_a_batch_has_the_first_in_line_and_a_shape_of_the_grid(lengths: list[int], grid: Grid) -> None:
    places, length = grid.next_batch(lengths)
    assert 0 in places
    assert len(set(places)) == len(places)
    assert length >= max(lengths[place] for place in places)
    assert len(places) * length <= grid.token_budget or len(places) == 1
    assert (len(places), length) in (shapes_of_few if grid is FEW else {(len(places), max(lengths[p] for p in places))})


shapes_of_few = set(FEW.shapes())


def batches_of(grid: Grid, lengths: list[int]) -> list[tuple[list[int], int]]:
    """The lengths of the windows of every batch until none is left, and what it was padded to."""
    found = []
    while lengths:
        places, length = grid.next_batch(lengths[:64])
        found.append(([lengths[place] for place in places], length))
        lengths = [tokens for place, tokens in enumerate(lengths) if place not in places]
    return found


def test_a_grid_of_few_shapes_is_small_and_its_padding_too() -> None:
    assert len(shapes_of_few) < 100
    chance = random.Random(0)
    lengths = [chance.choice((34, 60, 90, 162, 162, 170, 250, 384)) for _ in range(640)]
    batches = batches_of(FEW, lengths)
    assert sum(map(len, (windows for windows, _ in batches))) == len(lengths)
    assert sum(lengths) >= 0.85 * sum(len(windows) * length for windows, length in batches)
    assert len(batches) < len(lengths) / 6


def test_a_long_window_does_not_make_short_ones_long() -> None:
    assert batches_of(ANY, [30, 300, 31, 301, 29]) == [([31, 30, 29], 31), ([301, 300], 301)]
    assert batches_of(ANY, [30, 301]) == [([30], 30), ([301], 301)]


def test_what_is_nearly_alike_goes_together() -> None:
    assert batches_of(ANY, [100, 90, 80]) == [([100, 90, 80], 100)]


@pytest.mark.parametrize("longest", [20, 32, 384, 510])
def test_the_longest_window_is_not_padded_beyond_what_the_model_takes(longest: int) -> None:
    grid = Grid.of(Batching(few_shapes=True), longest)
    assert max(length for _, length in grid.shapes()) == longest == grid.length(longest)


@pytest.mark.parametrize("cost", [0, 40, 350, MOST_COST])
def test_what_a_batch_costs_is_measured(cost: int) -> None:
    assert FEW.batch_cost == BATCH_COST
    measured = FEW.measured(lambda rows, length: 2e-5 * (cost + rows * length))
    assert measured == replace(FEW, batch_cost=cost)


@pytest.mark.parametrize(
    ("seconds", "cost"),
    [
        (lambda *_: 0.004, MOST_COST),  # as long for one window as for many
        (lambda rows, _: 0.004 / rows, MOST_COST),  # a slow moment of the host
        (lambda rows, length: (rows * length) ** 2, 0),
        (lambda *_: 0.0, MOST_COST),
    ],
)
def test_whatever_is_measured_is_a_cost(seconds: Callable[[int, int], float], cost: int) -> None:
    assert FEW.measured(seconds).batch_cost == cost


def test_a_grid_whose_batches_have_one_row_has_nothing_to_measure() -> None:
    grid = Grid(token_budget=100, longest=384, step=32, rows=(1, 2, 4))
    assert grid.measured(lambda *_: 1 / 0) is grid


def test_the_more_a_batch_costs_the_more_unlike_windows_go_together() -> None:
    assert batches_of(ANY, [100, 50]) == [([100], 100), ([50], 50)]
    assert batches_of(replace(ANY, batch_cost=60), [100, 50]) == [([100, 50], 100)]


def test_a_shape_is_timed_by_its_shortest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession()
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0, 30.0, 38.0, 40.0, 44.0])
    monkeypatch.setattr("densepack_runtime.serving.grid.time.perf_counter", lambda: next(clock))
    assert seconds_of(session, 3, TIMED_LENGTH) == 2.0
    assert [batch.shape for batch in session.batches] == [(3, TIMED_LENGTH)] * TIMED_RUNS


def test_every_shape_is_warmed_in_every_lane() -> None:
    lanes = [FakeSession(), FakeSession()]
    warm(Lanes(lanes), FEW.shapes())
    for session in lanes:
        assert [batch.shape for batch in session.batches] == FEW.shapes()


def test_every_shape_is_warmed() -> None:
    session = FakeSession()
    warm(session, FEW.shapes())
    assert {batch.shape for batch in session.batches} == shapes_of_few
