"""Levels under a budget, against all combinations."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densepack_models.pruning.second_order.levels import Levels, cheapest_levels

COSTS = st.floats(0, 10, allow_subnormal=False)


@st.composite
def tables(draw: st.DrawFn) -> list[Levels]:
    found = []
    for unit in draw(st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=4)):
        steps = draw(st.integers(1, 4))
        costs = sorted(draw(st.lists(COSTS, min_size=steps + 1, max_size=steps + 1)))
        found.append(Levels(tuple(unit * (steps - level) for level in range(steps + 1)), tuple(costs)))
    return found


@given(found=tables(), budget=st.integers(0, 60))
def test_nothing_that_fits_costs_less(found: list[Levels], budget: int) -> None:
    chosen = cheapest_levels(found, budget)

    def sums(levels: tuple[int, ...]) -> tuple[int, float]:
        pairs = list(zip(found, levels, strict=True))
        return sum(table.weights[level] for table, level in pairs), sum(table.costs[level] for table, level in pairs)

    every = product(*(range(len(table.weights)) for table in found))
    least = min(cost for weight, cost in map(sums, every) if weight <= budget)
    weight, cost = sums(tuple(chosen))
    assert weight <= budget
    assert cost == pytest.approx(least)


def test_the_cliff_at_nothing_is_not_smoothed() -> None:
    cliff = Levels((16, 8, 0), (0.0, 0.01, 50.0))
    slope = Levels((16, 8, 0), (0.0, 1.0, 2.0))
    assert cheapest_levels([cliff, slope], 8) == [1, 2]


def test_a_budget_that_is_finer_than_needed_holds() -> None:
    """Times in nanoseconds have no common divisor."""
    table = Levels((1_000_003, 500_009, 250_007, 0), (0.0, 1.0, 2.0, 9.0))
    chosen = cheapest_levels([table] * 3, 1_400_000)
    spent = sum(table.weights[level] for level in chosen)
    assert spent <= 1_400_000
    assert sorted(chosen) == [1, 1, 2]


def test_of_equals_the_fuller_level_is_taken() -> None:
    free = Levels((4, 2, 0), (0.0, 0.0, 0.0))
    assert cheapest_levels([free], 4) == [0]
    assert cheapest_levels([free], 3) == [1]
