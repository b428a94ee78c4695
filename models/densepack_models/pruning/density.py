"""What packing would leave of the present masks, and how a run is steered to a wanted density.

A head is gone when all its value rows or all its output columns are masked, a unit when its score is; what remains
counts in full, as in `densepack inspect`.

    masked_density(student, masks_at).linear_density
    steering.update(step)                       # sets λ (or the kept share) so that the density follows its path
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from densepack_models.formats.score_methods import RANKED
from densepack_models.pruning.masked import ScoreGrid
from densepack_models.pruning.schedule import Schedule
from densepack_models.pruning.student import Student
from densepack_runtime.errors import InputError
from densepack_runtime.structure import LayerStructure, Structure

# Steps between two corrections: scores move by about their learning rate a step, so ten steps change little.
STEER_EVERY = 10
# By how much λ is multiplied for every unit that scores have yet to fall. Scores add up what λ does to them, so a
# controller in proportion is enough; one that also adds up overshoots.
_GAIN = 5.0
_LARGEST_FACTOR = 50.0
_FARTHEST_SHIFT = 50.0
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class MaskedDensity:
    """Heads left in the whole model, FFN units left, and the share of the dense linear weights that packing keeps."""

    heads: int
    units: int
    linear_density: float


def masked_density(student: Student, make_mask: Callable[[ScoreGrid], Tensor] | None = None) -> MaskedDensity:
    """Density of the student under its present masks, or under those that `make_mask` gives."""
    structure = student.structure
    grids = dict(student.masks.named_grids()) if student.masks is not None else {}
    with torch.no_grad():
        alive = {name: (make_mask(grid) if make_mask else grid.mask).detach() != 0 for name, grid in grids.items()}
    heads = sum(_heads_left(alive, index, structure) for index in range(structure.num_layers))
    units = sum(_units_left(alive, index, layer) for index, layer in enumerate(structure.layers))
    weights = (4 * heads * structure.head_size + 2 * units) * structure.hidden_size
    return MaskedDensity(heads, units, weights / structure.dense().linear_weights)


def final_density(student: Student) -> MaskedDensity:
    """Density at the last threshold: what the result would have if the run ended now."""
    masks = student.masks
    if masks is None:
        return masked_density(student)
    return masked_density(student, lambda grid: masks.make_mask(grid, masks.last_threshold))


def _heads_left(alive: dict[str, Tensor], index: int, structure: Structure) -> int:
    heads = len(structure.layers[index].heads)
    if not heads or f"{index}_value" not in alive:
        return heads
    values = _by_head(alive[f"{index}_value"].any(1), heads)
    outputs = _by_head(alive[f"{index}_output"].any(0), heads)
    return int((values & outputs).sum())


def _by_head(blocks: Tensor, heads: int) -> Tensor:
    """Which heads touch a living block, bool [heads]; a block may be smaller or larger than a head."""
    size = math.lcm(len(blocks), heads)
    return blocks.repeat_interleave(size // len(blocks)).view(heads, -1).any(1)


def _units_left(alive: dict[str, Tensor], index: int, layer: LayerStructure) -> int:
    mask = alive.get(f"{index}_ffn")
    return layer.ffn_width if mask is None else int(mask.sum())


def refuse_unreachable(student: Student, target: float) -> None:
    """Raise InputError for a density that masks cannot bring this student to, before any work is done."""
    start = student.structure.linear_density
    if not 0 < target < start:
        raise InputError(
            f"a density of {100 * target:g} % cannot be reached by pruning: the model has {100 * start:.3g} % of its "
            "linear weights, and something has to stay; choose a target below that"
        )
    least = least_density(student)
    if target < least:
        raise InputError(_out_of_reach(target, least))


def least_density(student: Student) -> float:
    """What is left by the present scores when nothing but the floor on survivors keeps a head or a unit."""
    masks = student.masks
    if masks is None:
        return student.structure.linear_density
    if masks.settings.method in RANKED:
        return masked_density(student, lambda grid: masks.make_mask(grid, 0.0)).linear_density
    threshold, shift = masks.settings.last_threshold, -_FARTHEST_SHIFT
    return masked_density(student, lambda grid: masks.make_mask(grid, threshold, shift=shift)).linear_density


def _out_of_reach(target: float, least: float) -> str:
    return (
        f"a density of {100 * target:g} % is out of reach: the floor on survivors, which keeps the best of every mask, "
        f"alone leaves {100 * least:.3g} % of the linear weights; ask for more than that"
    )


class Steering:
    """Brings the packed density of a run to a target.

    Where scores meet a threshold, λ is steered by how far all scores would have to move together for the last threshold
    to leave the target: up while they have to fall, below zero when they fell too far. What the threshold cuts on the
    way is the schedule's affair. The ranked methods have nothing that λ could do: their kept share follows the path
    that the density should take. Half-way through the hold, or after the last step where there is none, the masks are
    fixed at the target.
    """

    def __init__(self, student: Student, schedule: Schedule, target: float) -> None:
        assert student.masks is not None
        self.student, self.masks, self.schedule, self.target = student, student.masks, schedule, target
        if len(self.masks.steering) == 0:  # λ, threshold, last threshold
            self.masks.steering = torch.tensor(
                [0.0, schedule.first_threshold, schedule.last_threshold], dtype=torch.float64
            )

    def update(self, step: int) -> float:
        """Set thresholds for the step to come (`step` are done, at the end all of them) and return λ.

        Raises InputError when the masks are to be fixed and no choice of them keeps the target.
        """
        masks, schedule = self.masks, self.schedule
        if step >= schedule.freeze_step and not masks.frozen:
            self._freeze()
        if masks.frozen:
            return 0.0
        memory = masks.steering
        if step % STEER_EVERY == 0:
            if masks.settings.method in RANKED:
                wanted = schedule.density(step, self.target, self.student.structure.linear_density)
                memory[1], memory[2] = self._share_for(wanted), self._share_for(self.target)
            else:
                self._correct(step, memory)
        ranked = masks.settings.method in RANKED
        masks.threshold = float(memory[1]) if ranked else schedule.threshold(step)
        masks.last_threshold = float(memory[2]) if ranked else schedule.last_threshold
        return float(memory[0])

    def _correct(self, step: int, memory: Tensor) -> None:
        excess = -self._shift_for(self.target)
        factor = min(_LARGEST_FACTOR, max(-_LARGEST_FACTOR, _GAIN * excess))
        memory[0] = self.schedule.regularisation(step) * factor

    def _freeze(self) -> None:
        """Fix the masks at the target: the ranking decides, however far the scores have come."""
        least = least_density(self.student)
        if least > self.target:
            raise InputError(_out_of_reach(self.target, least))
        if self.masks.settings.method in RANKED:
            self.masks.freeze(self._share_for(self.target))
        else:
            self.masks.freeze(self.schedule.last_threshold, self._shift_for(self.target))

    def _shift_for(self, density: float) -> float:
        """What has to be added to all scores so that the last threshold leaves at most `density`."""
        masks, threshold = self.masks, self.schedule.last_threshold
        return _bisect(
            lambda shift: self._density(lambda grid: masks.make_mask(grid, threshold, shift=shift)),
            -_FARTHEST_SHIFT,
            _FARTHEST_SHIFT,
            density,
        )

    def _share_for(self, density: float) -> float:
        """The kept share of every matrix that leaves at most `density` of the linear weights."""
        masks = self.masks
        return _bisect(
            lambda share: self._density(lambda grid: masks.make_mask(grid, share)), 0.0, 1.0, density, halvings=16
        )

    def _density(self, make_mask: Callable[[ScoreGrid], Tensor]) -> float:
        return masked_density(self.student, make_mask).linear_density


def _bisect(
    density_of: Callable[[float], float], low: float, high: float, target: float, halvings: int = _HALVINGS
) -> float:
    """The largest value whose density, which grows with it, is at most the target."""
    if density_of(high) <= target:
        return high
    for _ in range(halvings):
        middle = (low + high) / 2
        if density_of(middle) <= target:
            low = middle
        else:
            high = middle
    return low
