"""A one-shot start: gradients of the answer loss on a few hundred batches rank all heads and FFN units of a model.

The importance of a head or unit is the mean squared gradient of a gate that multiplies its output, per window and per
weight it costs. Scores start in that order, so that a short run needs to correct it only.

    importance = gate_importance(student, batches)
    set_scores(student, importance, target=0.3)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from densepack_models.pruning.backward import backward_passes
from densepack_models.pruning.student import Student
from densepack_runtime.errors import InputError

# From the first to the last rank, scores span this much. The learning rate of scores moves one by about as much in a
# few hundred steps, so training can still turn the order round.
SPREAD = 4.0


@dataclass(frozen=True, slots=True)
class Importance:
    """Mean squared gate gradients of one layer: float64 [heads] and [units]."""

    heads: Tensor
    units: Tensor


def gate_importance(
    student: Student, batches: Iterable[Mapping[str, Tensor]], *, autocast: torch.dtype | None = None
) -> list[Importance]:
    """Importance of every head and unit by layer. Dropout is off, the student keeps its gradients as they were."""
    heads = [torch.zeros(len(layer.heads), dtype=torch.float64) for layer in student.structure.layers]
    units = [torch.zeros(layer.ffn_width, dtype=torch.float64) for layer in student.structure.layers]
    rows = 0
    with _Gates(student) as gates:
        for windows in backward_passes(student, batches, gates.open, autocast=autocast):
            rows += windows
            for index in range(student.structure.num_layers):
                heads[index] += gates.squared(index, "heads", heads[index])
                units[index] += gates.squared(index, "units", units[index])
    if not rows:
        raise InputError("there is no batch to rank heads and units with")
    return [Importance(head / rows, unit / rows) for head, unit in zip(heads, units, strict=True)]


class _Gates:
    """Multiplies what goes into the output projections by ones that want a gradient, one a window and head or unit."""

    def __init__(self, student: Student) -> None:
        self._linear = student.linear
        self._structure = student.structure
        self._handles: list[RemovableHandle] = []
        self._gates: dict[tuple[int, str], Tensor] = {}

    def __enter__(self) -> _Gates:
        for index, layer in enumerate(self._structure.layers):
            if layer.heads:
                self._attach(self._linear(f"layer.{index}.attention.output"), index, "heads", self._structure.head_size)
            if layer.ffn_width:
                self._attach(self._linear(f"layer.{index}.ffn.output"), index, "units", 1)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _attach(self, projection: nn.Module, index: int, kind: str, width: int) -> None:
        def gated(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            gate = self._gates[index, kind].repeat_interleave(width, 1)  # [B, inputs]
            return (inputs[0] * gate[:, None, :].to(inputs[0].dtype), *inputs[1:])

        self._handles.append(projection.register_forward_pre_hook(gated))

    def open(self, batch: Mapping[str, Tensor]) -> None:
        """Fresh gates for a batch."""
        rows, device = len(batch["start"]), batch["start"].device
        for index, layer in enumerate(self._structure.layers):
            for kind, count in (("heads", len(layer.heads)), ("units", layer.ffn_width)):
                self._gates[index, kind] = torch.ones(rows, count, device=device, requires_grad=True)

    def squared(self, index: int, kind: str, like: Tensor) -> Tensor:
        """Sum over the windows of the squared gradient, float64 on the CPU."""
        gradient = self._gates[index, kind].grad
        return torch.zeros_like(like) if gradient is None else gradient.double().square().sum(0).cpu()


def set_scores(
    student: Student,
    importance: list[Importance],
    *,
    cut: float,
    last_score: float,
    attention_coefficient: float = 1.0,
    dense_coefficient: float = 1.0,
) -> None:
    """Give the scores the order of the importance.

    The least important heads and units that together have `cut` of the linear weights start below `last_score` (where
    the last threshold cuts), the others above it. The coefficients weigh what a head and a unit cost, as in the
    regulariser: a lower one keeps more of that kind.
    """
    assert student.masks is not None
    structure = student.structure
    costs = {"heads": 4.0 * structure.head_size * structure.hidden_size, "units": 2.0 * structure.hidden_size}
    worth = {"heads": costs["heads"] * attention_coefficient, "units": costs["units"] * dense_coefficient}
    kinds = [(getattr(layer, kind) / worth[kind], costs[kind]) for layer in importance for kind in ("heads", "units")]
    values = torch.cat([value for value, _ in kinds])
    weights = torch.cat([torch.full_like(value, cost) for value, cost in kinds])
    order = values.argsort(stable=True)
    share = torch.empty_like(values)  # of the weights that are less important, 0 to 1
    share[order] = (weights[order].cumsum(0) - weights[order] / 2) / weights.sum()
    scores = last_score + SPREAD * (share - cut)
    pieces = iter(torch.split(scores, [len(value) for value, _ in kinds]))
    grids = dict(student.masks.named_grids())
    for index in range(structure.num_layers):
        heads, units = next(pieces), next(pieces)
        for name in ("query", "key", "value", "output"):
            _fill_blocks(grids.get(f"{index}_{name}"), heads, axis=1 if name == "output" else 0)
        _fill_blocks(grids.get(f"{index}_ffn"), units, axis=0)


def _fill_blocks(grid: nn.Module | None, scores: Tensor, *, axis: int) -> None:
    """Scores of heads or units on the blocks along an axis; a block that spans several heads gets the best."""
    if grid is None or getattr(grid, "scores", None) is None:
        return
    parameter = grid.scores
    assert isinstance(parameter, nn.Parameter)
    blocks = parameter.shape[axis]
    along = (
        scores.repeat_interleave(blocks // len(scores)) if blocks >= len(scores) else scores.view(blocks, -1).amax(1)
    )
    with torch.no_grad():
        parameter.copy_((along[:, None] if axis == 0 else along[None, :]).expand(parameter.shape))
