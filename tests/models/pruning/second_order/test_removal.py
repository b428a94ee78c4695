"""The order of removal, what it costs, and the refit, against brute force in float64."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from densepack_models.pruning.second_order.removal import damped, refit, removal_order

OUTPUTS, INPUTS, TOKENS = 5, 12, 200
# Both sides are float64, and the covariance is damped: condition numbers are below 1e4.
EXACT = 1e-12


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, inputs [tokens, inputs] that are correlated and centred, curvature."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = draw(TOKENS, INPUTS) @ draw(INPUTS, INPUTS)
    root = draw(OUTPUTS, OUTPUTS)
    return draw(OUTPUTS, INPUTS), inputs - inputs.mean(0), root @ root.T


def covariance_of(inputs: Tensor) -> Tensor:
    return inputs.T @ inputs / len(inputs)


def cost_of_refit(weight: Tensor, covariance: Tensor, curvature: Tensor, kept: list[int]) -> float:
    change = -weight.clone()
    if kept:
        change[:, kept] += refit(weight, covariance, torch.tensor(kept))
    return float(torch.trace(curvature @ change @ covariance @ change.T))


def columns(groups: list[int], size: int) -> list[int]:
    return [group * size + place for group in groups for place in range(size)]


def test_the_refit_is_the_least_squares_fit() -> None:
    weight, inputs, _ = problem()
    kept = [0, 3, 4, 7, 11]
    solution = torch.linalg.lstsq(inputs[:, kept], inputs @ weight.T).solution
    torch.testing.assert_close(refit(weight, covariance_of(inputs), torch.tensor(kept)), solution.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "at_once"), [(1, 1), (1, 5), (4, 1), (2, 2)])
def test_costs_add_up_to_those_of_the_refit_at_every_level(size: int, at_once: int) -> None:
    weight, inputs, curvature = problem()
    covariance = damped(covariance_of(inputs))
    removal = removal_order(weight, covariance, curvature, size=size, at_once=at_once)
    assert sorted(removal.order) == list(range(INPUTS // size))
    assert removal.gone[0] == 0
    assert removal.gone[-1] == INPUTS // size
    for level, cost in enumerate(removal.costs):
        again = cost_of_refit(weight, covariance, curvature, columns(removal.kept(level), size))
        assert cost == pytest.approx(again, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("size", [1, 3])
def test_what_goes_first_is_the_cheapest_of_all(size: int) -> None:
    for seed in range(5):
        weight, inputs, curvature = problem(seed)
        covariance = damped(covariance_of(inputs))
        groups = list(range(INPUTS // size))
        tried = {
            left: cost_of_refit(weight, covariance, curvature, columns(list(left), size))
            for left in combinations(groups, len(groups) - 1)
        }
        removal = removal_order(weight, covariance, curvature, size=size, at_once=1)
        assert tuple(removal.kept(1)) == min(tried, key=lambda left: tried[left])


def test_one_of_two_doubles_goes_at_no_cost_and_the_other_stays() -> None:
    weight, inputs, curvature = problem()
    inputs[:, 7] = inputs[:, 2]
    covariance = damped(covariance_of(inputs), 1e-9)
    removal = removal_order(weight, covariance, curvature, size=1, at_once=1)
    assert removal.order[0] in (2, 7)
    assert removal.costs[1] < 1e-6 * removal.costs[2]
    together = removal_order(weight, covariance, curvature, size=1, at_once=2)
    assert together.order[:2] == removal.order[:2]  # not both doubles, though each alone costs nothing
    assert {2, 7} - {*together.order[:2]}


def test_one_of_two_equal_heads_goes_at_no_cost() -> None:
    weight, inputs, curvature = problem()
    inputs[:, 8:12] = inputs[:, 0:4]
    removal = removal_order(weight, damped(covariance_of(inputs), 1e-9), curvature, size=4, at_once=1)
    assert removal.order[0] in (0, 2)
    assert removal.costs[1] < 1e-6 * removal.costs[2]


def test_the_dead_go_first_and_equals_in_their_order() -> None:
    weight, inputs, curvature = problem()
    dead = [1, 4, 9]
    inputs[:, dead] = 0
    weight[:, dead] = weight[:, :1]
    for at_once in (1, 3, 8):
        removal = removal_order(weight, damped(covariance_of(inputs)), curvature, size=1, at_once=at_once)
        assert list(removal.order[:3]) == dead


def test_a_projection_that_gets_nothing_costs_nothing() -> None:
    weight, _, curvature = problem()
    nothing = torch.zeros(INPUTS, INPUTS, dtype=torch.float64)
    removal = removal_order(0 * weight, damped(nothing), curvature, size=1, at_once=8)
    assert removal.order == tuple(range(INPUTS))
    assert set(removal.costs) == {0.0}
