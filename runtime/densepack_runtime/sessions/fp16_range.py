"""How large the values of a float16 graph became on real windows: what the range gate measured, and its limits.

    report.worst_name, report.worst_magnitude
    report.check()                           # ParityError that names the layer, the tensor, the value and the limit

Measured when a bundle is built (`densepack_export.proofs.range_gate`), and kept in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densepack_runtime.errors import InputError, ParityError, named

# Half of what float16 can hold (65504): windows that were not measured may go further.
LIMIT = 3e4
# The smallest float16 number with all 11 bits, and the share of a matrix's values that may be smaller (zeros aside).
# Trained matrices have 0.1 % to 3 % there.
SMALLEST_NORMAL = 2.0**-14
SUBNORMAL_LIMIT = 0.5


@dataclass(frozen=True, slots=True)
class RangeReport:
    """Largest magnitude of every float16 tensor, weight and product, weights first, then in the order of the graph.

    Over `windows` rows. `subnormal` is the share, 0 to 1, of the values of each weight matrix that float16 holds with
    fewer bits.
    """

    magnitudes: dict[str, float]
    subnormal: dict[str, float]
    windows: int
    limit: float = LIMIT

    def __post_init__(self) -> None:
        if not self.magnitudes:
            raise InputError("the FP16 range gate has measured no tensor")

    @property
    def worst_name(self) -> str:
        """The tensor with the largest magnitude."""
        return max(self.magnitudes, key=lambda name: (math.isnan(self.magnitudes[name]), self.magnitudes[name]))

    @property
    def worst_magnitude(self) -> float:
        return self.magnitudes[self.worst_name]

    @property
    def derived(self) -> dict[str, Any]:
        return {"worst": {"name": self.worst_name, "magnitude": self.worst_magnitude}}

    @property
    def over_limit(self) -> dict[str, float]:
        """What is above the limit (or not a number), in the order of the graph: the first is where it begins."""
        return {name: value for name, value in self.magnitudes.items() if not value <= self.limit}

    @property
    def below_range(self) -> dict[str, float]:
        """Weight matrices that are mostly subnormal, with the share that is."""
        return {name: share for name, share in self.subnormal.items() if share > SUBNORMAL_LIMIT}

    def check(self) -> None:
        """Raise ParityError that names layer, tensor, value and limit when float16 would come near one of its ends."""
        faults = []
        if over := self.over_limit:
            faults.append(
                f"would overflow in {part_of(next(iter(over)))}: over {self.windows} windows these tensors reach "
                f"{_list(over, ',.0f')}; the limit is {self.limit:,.0f} (float16 ends at 65,504)"
            )
        if below := self.below_range:
            faults.append(
                f"would lose bits in {part_of(next(iter(below)))}: weights below {SMALLEST_NORMAL:.2g} make up "
                f"{_list(below, '.0%')}; the limit is {SUBNORMAL_LIMIT:.0%}"
            )
        if faults:
            raise ParityError(
                f"float16 {'; it '.join(faults)}. Move the scale from one projection to the next, or use float32"
            )


def part_of(name: str) -> str:
    """'layer.3', 'embeddings' or 'qa_outputs': the part of the model that a tensor of the graph belongs to."""
    path = name.strip("/").replace("/", ".").split(".")
    return ".".join(path[:2]) if path[0] == "layer" else path[0]


def _list(values: Mapping[str, float], form: str) -> str:
    return named([f"{name} {value:{form}}" for name, value in values.items()])
