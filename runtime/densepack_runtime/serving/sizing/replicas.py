"""How many replicas answer a rate within a time, by simulation.

fleet = size(simulation, questions, rate=400, p99_s=0.2)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from densepack_runtime.errors import InputError
from densepack_runtime.serving.sizing.simulation import Question, Simulated, Simulation

# Questions of a simulation: the slowest hundredth are 40 of them.
QUESTIONS = 4000
# So many clients keep a server as busy as it can be.
_MANY = 256
# How closely the rate of a replica is searched, as a share of the most that it can do.
_CLOSE = 0.01
_MOST_BUSY = 0.98


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many replicas, each at `rate` questions a second of the `most` it could answer in time; what one then does."""

    replicas: int
    rate: float
    most: float
    saturated: float
    simulated: Simulated


def size(
    simulation: Simulation,
    questions: Sequence[Question],
    rate: float,
    p99_s: float,
    *,
    seed: int = 0,
    tried: Callable[[str], None] = lambda _: None,
) -> Fleet:
    """The fewest replicas that answer `rate` questions a second with 99 of 100 within `p99_s`.

    Questions are drawn from those given, and come to each replica as they like. Raises InputError where no number of
    replicas can: already a question that comes alone takes longer.
    """
    drawn = random.Random(seed).choices(questions, k=QUESTIONS)
    saturated = simulation.over_connections(drawn, _MANY).rate
    alone = simulation.over_connections(drawn, 1).p99_s
    if alone > p99_s:
        raise InputError(
            f"no number of replicas answers 99 of 100 within {1000 * p99_s:.3g} ms: alone they take up to "
            f"{1000 * alone:.3g} ms here. A longer time, a faster precision (densepack prove), or shorter contexts"
        )
    most = _highest_rate(simulation, drawn, saturated, p99_s, seed, tried)
    replicas = math.ceil(rate / most)
    return Fleet(replicas, rate / replicas, most, saturated, simulation.at_rate(drawn, rate / replicas, seed))


def _highest_rate(
    simulation: Simulation,
    questions: Sequence[Question],
    saturated: float,
    p99_s: float,
    seed: int,
    tried: Callable[[str], None],
) -> float:
    """Questions a second of one replica, by bisection; the same questions come in every try."""
    low, high = 0.0, _MOST_BUSY * saturated
    while high - low > _CLOSE * saturated:
        middle = (low + high) / 2
        found = simulation.at_rate(questions, middle, seed).p99_s
        tried(f"{middle:.1f} questions/s: 99 of 100 within {1000 * found:.0f} ms")
        low, high = (middle, high) if found <= p99_s else (low, middle)
    if not low:
        raise InputError(
            f"99 of 100 within {1000 * p99_s:.3g} ms leaves a replica less than a hundredth of what it can do: a "
            "longer time, or a faster precision (densepack prove)"
        )
    return low


def tries() -> int:
    """How often `tried` is called."""
    return math.ceil(math.log2(_MOST_BUSY / _CLOSE))
