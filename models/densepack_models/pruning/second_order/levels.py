"""How much of which projection goes: one level for each, so that all fit a budget at the least loss.

chosen = cheapest_levels([Levels(weights=(8, 4, 0), costs=(0.0, 0.1, 2.0)), …], budget=10)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FINEST = 2**15


@dataclass(frozen=True, slots=True)
class Levels:
    """What a projection weighs at each of its levels, and what it loses there."""

    weights: tuple[int, ...]
    costs: tuple[float, ...]


def cheapest_levels(tables: Sequence[Levels], budget: int) -> list[int]:
    """The level of every projection with the least sum of costs whose weights are at most `budget`; the lower level
    where two do equally well. Every table has a level of weight 0, so that any budget can be met.

    Dynamic programming over the budget in units of the greatest common divisor of all weights, or of a 2¹⁵th of them
    all where that is finer than needed; then a weight is rounded up, so that the budget holds.
    """
    whole = sum(max(table.weights) for table in tables)
    unit = max(math.gcd(*(weight for table in tables for weight in table.weights)), -(-whole // _FINEST), 1)
    room = min(budget, whole) // unit
    best = np.zeros(room + 1)  # the least cost of the tables so far, by the room that they have
    choices = []
    for table in tables:
        least, choice = np.full(room + 1, np.inf), np.zeros(room + 1, dtype=np.int32)
        for level, (weight, cost) in enumerate(zip(table.weights, table.costs, strict=True)):
            need = -(-weight // unit)
            if need > room:
                continue
            total = best[: room + 1 - need] + cost
            better = total < least[need:]
            least[need:][better], choice[need:][better] = total[better], level
        best = least
        choices.append(choice)
    levels = []
    for table, choice in zip(reversed(tables), reversed(choices), strict=True):
        levels.append(int(choice[room]))
        room -= -(-table.weights[levels[-1]] // unit)
    return levels[::-1]
