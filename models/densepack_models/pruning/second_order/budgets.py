"""What a cut may keep: so much of the linear weights, of the floating point operations, or of a session's time.

    goal = Goal("speedup", 3.0, clock=clock)
    prices = goal.prices(structure)
    refuse_unreachable(structure, goal, prices)
    limit = goal.limit(prices, structure)

All that is spent counts in whole numbers (weights, operations, nanoseconds), so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, Protocol

from densepack_runtime.errors import InputError
from densepack_runtime.structure import Structure

Quantity = Literal["density", "flops", "speedup", "latency"]
NANOSECONDS = 10**6  # in a millisecond
# FFN units that go together: the result is the same as one by one, in an eighth of the time.
UNITS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Prices:
    """What is spent on a model: `fixed`, and by layer `heads[n]` where n heads are left and `units[n]` for n FFN units;
    nothing where none is left.
    """

    heads: tuple[int, ...]
    units: tuple[int, ...]
    fixed: int = 0

    def spent_on(self, structure: Structure) -> int:
        layers = structure.layers
        return self.fixed + sum(self.heads[len(layer.heads)] + self.units[layer.ffn_width] for layer in layers)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one batch, of the dense model and of a smaller one, and how many times as fast that is."""

    dense_ms: float
    ms: float
    speedup: float


class Clock(Protocol):
    """Times models of any structure in one session: a backend, a precision, a batch size and a length."""

    def prices(self, structure: Structure) -> Prices:
        """Nanoseconds by what is left of a layer, of models with the sizes of `structure`."""

    def timing(self, structure: Structure) -> Timing:
        """The whole model side by side with the dense one."""

    def as_dict(self) -> Mapping[str, Any]:
        """Which session it is."""


@dataclass(frozen=True, slots=True)
class Goal:
    """How small a model shall become: at most a share of the dense model's linear weights (`density`) or of its
    floating point operations for a window of `length` tokens (`flops`, attention products included, as `Cost` counts
    them), or at least so many times its speed (`speedup`), or at most so many milliseconds (`latency`), by the clock.
    With a `share` below 1 it goes only so far there, counted in factors.
    """

    quantity: Quantity
    value: float
    length: int = 384
    clock: Clock | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.value < inf:
            raise InputError(f"{self.quantity} is {self.value:g}, more than 0 is needed")

    def prices(self, structure: Structure) -> Prices:
        if self.quantity == "density":
            return _weights(structure)
        if self.quantity == "flops":
            return _flops(structure, self.length)
        return self.session.prices(structure)

    def limit(self, prices: Prices, structure: Structure) -> int:
        """What may be spent, where `structure` is what there is now."""
        dense, present = prices.spent_on(structure.dense()), prices.spent_on(structure)
        asked = {"latency": self.value * NANOSECONDS, "speedup": dense / self.value}
        wanted = asked.get(self.quantity, self.value * dense)
        return int(wanted if self.share == 1 else present * (wanted / present) ** self.share)

    def reached(self, spent: int, dense: int) -> float:
        """The value of a model on which so much is spent."""
        if self.quantity == "latency":
            return spent / NANOSECONDS
        return dense / spent if self.quantity == "speedup" else spent / dense

    def shown(self, value: float) -> str:
        """A value in words."""
        if self.is_timed:
            return f"{value:.3g} {'ms' if self.quantity == 'latency' else 'times the speed'}"
        return f"{100 * value:.3g} % of the {'linear weights' if self.quantity == 'density' else 'FLOPs'}"

    def excess(self, timing: Timing) -> float:
        """What a model takes in a share of what it may."""
        return self.value / timing.speedup if self.quantity == "speedup" else timing.ms / self.value

    def as_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {self.quantity: self.value}
        if self.share < 1:
            told["share"] = self.share
        if self.quantity == "flops":
            told["length"] = self.length
        if self.is_timed:
            told["session"] = dict(self.session.as_dict())
        return told

    @property
    def is_timed(self) -> bool:
        return self.quantity in ("speedup", "latency")

    @property
    def session(self) -> Clock:
        """Whose time counts. Raises InputError where nobody has said."""
        if self.clock is None:
            raise InputError(f"a {self.quantity} is that of a session: say which with --backend")
        return self.clock


def refuse_unreachable(structure: Structure, goal: Goal, prices: Prices) -> None:
    """Raise InputError for a goal that a cut cannot bring a model to, with what it can."""
    smallest = [prices.heads[1] for layer in structure.layers if layer.heads]
    smallest += [
        prices.units[(layer.ffn_width - 1) % UNITS_AT_ONCE + 1] for layer in structure.layers if layer.ffn_width
    ]
    if not smallest:
        raise InputError("nothing can be removed from this model: it has no heads and no FFN units left")
    lowest, present, dense = prices.fixed + min(smallest), *map(prices.spent_on, (structure, structure.dense()))
    limit = replace(goal, share=1.0).limit(prices, structure)
    if not lowest <= limit < present:
        has, least = (goal.shown(goal.reached(spent, dense)) for spent in (present, lowest))
        raise InputError(
            f"{goal.shown(goal.value)} cannot be reached: the model has {has}, and the least that can stay is {least}; "
            "choose one between"
        )


def _weights(structure: Structure) -> Prices:
    hidden = structure.hidden_size
    return Prices(
        heads=tuple(4 * structure.head_size * hidden * count for count in range(structure.num_attention_heads + 1)),
        units=tuple(2 * hidden * count for count in range(structure.intermediate_size + 1)),
    )


def _flops(structure: Structure, length: int) -> Prices:
    """From the structures themselves, so that they are those that `inspect` and `bench` tell."""
    nothing = replace(structure.layers[0], heads=(), ffn_units=(), ffn_width=0, query_dead_heads=())

    def cost(**left: Any) -> int:
        return replace(structure, layers=(replace(nothing, **left),)).cost.flops(length)

    fixed = cost()
    return Prices(
        heads=tuple(cost(heads=tuple(range(n))) - fixed for n in range(structure.num_attention_heads + 1)),
        units=tuple(cost(ffn_width=n) - fixed for n in range(structure.intermediate_size + 1)),
        fixed=fixed,
    )
