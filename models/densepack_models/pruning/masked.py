"""Masks on the linear layers of a BERT, as parametrisations: the weights stay what they are, the forward sees M ∘ W.

    y = x (M ∘ W)ᵀ + b ∘ [row of M has any 1]

Query, key, value and attention output have a grid of scores each, one score a block (for the output projection the
block is transposed). The two FFN matrices of a layer share one vector, a score a unit, for the rows of the first and
the columns of the second.

    masks = attach_masks(student.linear, structure, MaskSettings())
    masks.threshold = 0.05
    masks.refresh(); bert(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from densepack_models.formats.score_masks import block_magnitudes, grid_mask, masked_matrix
from densepack_models.formats.score_methods import LEAST_SHARE, Method
from densepack_runtime.errors import InputError
from densepack_runtime.structure import Structure

Kind = Literal["attention", "dense"]
PROJECTIONS = ("query", "key", "value", "output")


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """How masks are made. `attention_block` None means whole heads: head size by hidden size.

    `last_threshold` is the one that evaluation and the result use.
    """

    method: Method = "sigmoid"
    attention_block: tuple[int, int] | None = (32, 32)
    last_threshold: float = 0.1
    least_share: float = LEAST_SHARE


class ScoreGrid(nn.Module):
    """Scores of one matrix, or of the FFN units of one layer as a column [units, 1], and the mask made of them.

    Without `magnitudes` the scores are trained; with it they are what it returns.
    """

    kept: Tensor

    def __init__(self, shape: tuple[int, int], kind: Kind, magnitudes: Callable[[], Tensor] | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.magnitudes = magnitudes
        self.scores = nn.Parameter(torch.zeros(shape)) if magnitudes is None else None
        self.register_buffer("kept", torch.ones(shape))
        self.mask: Tensor = torch.ones(shape)

    def values(self) -> Tensor:
        """The scores, or the magnitudes that stand for them."""
        if self.scores is not None:
            return self.scores
        assert self.magnitudes is not None
        return self.magnitudes()


class Masks(nn.Module):
    """All score grids of a model by layer and name, "3_query" or "3_ffn".

    `threshold` is that of the present step, `last_threshold` that of evaluation and the result. After `freeze`, the
    masks stay what they were then. `steering` is the memory of a steered run (see density.py), saved with the scores.
    """

    is_frozen: Tensor
    steering: Tensor

    def __init__(self, settings: MaskSettings) -> None:
        super().__init__()
        self.settings = settings
        self.threshold = self.last_threshold = settings.last_threshold
        self.grids = nn.ModuleDict()
        self.register_buffer("is_frozen", torch.tensor(False))
        self.register_buffer("steering", torch.zeros(0, dtype=torch.float64))
        self._frozen = False

    def named_grids(self) -> Iterator[tuple[str, ScoreGrid]]:
        for name, grid in self.grids.items():
            assert isinstance(grid, ScoreGrid)
            yield name, grid

    def scores(self, kind: Kind) -> list[Tensor]:
        """The trained scores of a kind."""
        return [grid.scores for _, grid in self.named_grids() if grid.kind == kind and grid.scores is not None]

    def refresh(self, *, noisy: bool = False) -> None:
        """Make every mask from its scores at the present threshold, once for all that read it."""
        for _, grid in self.named_grids():
            grid.mask = self.make_mask(grid, self.threshold, noisy=noisy)

    def refresh_final(self) -> None:
        """Make the masks that evaluation and the result use."""
        with torch.no_grad():
            for _, grid in self.named_grids():
                grid.mask = self.make_mask(grid, self.last_threshold)

    def make_mask(self, grid: ScoreGrid, threshold: float, *, noisy: bool = False, shift: float = 0.0) -> Tensor:
        """The mask of one grid at a threshold; `shift` is added to its scores first."""
        if self._frozen:
            return grid.kept
        values = grid.values() + shift if shift else grid.values()
        settings = self.settings
        return grid_mask(values, settings.method, threshold, least_share=settings.least_share, noisy=noisy)

    def freeze(self, threshold: float, shift: float = 0.0) -> None:
        """Keep the masks of this threshold and shift from now on, whatever the scores do."""
        with torch.no_grad():
            for _, grid in self.named_grids():
                grid.kept.copy_(self.make_mask(grid, threshold, shift=shift))
        self.is_frozen.fill_(True)
        self._frozen = True

    @property
    def frozen(self) -> bool:
        return self._frozen

    def loaded(self) -> None:
        """To be called when a state was loaded: what is in the buffer counts."""
        self._frozen = bool(self.is_frozen)


class MaskedWeight(nn.Module):
    """The parametrisation of a weight: M ∘ W. `view` brings the grid to the matrix's axes."""

    def __init__(self, grid: ScoreGrid, view: tuple[int, int]) -> None:
        super().__init__()
        self._grid = (grid,)  # in a tuple, so that its scores belong to `Masks` alone
        self._view = view

    def forward(self, weight: Tensor) -> Tensor:
        return masked_matrix(weight, self._grid[0].mask.view(self._view).to(weight.dtype))


class MaskedBias(nn.Module):
    """The parametrisation of a bias: zero where a whole row of the weight is masked. Scores get no gradient from it."""

    def __init__(self, grid: ScoreGrid) -> None:
        super().__init__()
        self._grid = (grid,)

    def forward(self, bias: Tensor) -> Tensor:
        rows = (self._grid[0].mask.detach() != 0).any(1)  # [grid rows]
        return bias * rows.repeat_interleave(len(bias) // len(rows)).to(bias.dtype)


def attach_masks(linear: Callable[[str], nn.Linear], structure: Structure, settings: MaskSettings) -> Masks:
    """Parametrise the linear layers of a (possibly narrow) student, which `linear` gives by the packed module's names.

    Raises InputError when blocks do not divide them.
    """
    masks = Masks(settings)
    block = settings.attention_block or (structure.head_size, structure.hidden_size)
    faults = []
    for index, layer in enumerate(structure.layers):
        if layer.heads:
            for name in PROJECTIONS:
                owner = linear(f"layer.{index}.attention.{name}")
                oriented = block[::-1] if name == "output" else block
                faults += _block_faults(f"layer {index} {name}", owner.weight, oriented)
                if not faults:
                    masks.grids[f"{index}_{name}"] = _mask_matrix(owner, oriented, settings)
        if layer.ffn_width:
            first, second = (linear(f"layer.{index}.ffn.{name}") for name in ("intermediate", "output"))
            masks.grids[f"{index}_ffn"] = _mask_units(first, second, settings)
    if faults:
        raise InputError(f"blocks of {block[0]}x{block[1]} do not fit: {'; '.join(faults)}")
    masks.refresh()
    return masks


def _block_faults(name: str, weight: Tensor, block: tuple[int, int]) -> list[str]:
    if any(size % part for size, part in zip(weight.shape, block, strict=True)):
        return [f"{name} is {list(weight.shape)}"]
    return []


def _mask_matrix(linear: nn.Linear, block: tuple[int, int], settings: MaskSettings) -> ScoreGrid:
    shape = (linear.out_features // block[0], linear.in_features // block[1])
    magnitudes = None
    if settings.method == "magnitude":
        magnitudes = lambda: block_magnitudes(_original(linear), shape)  # noqa: E731
    grid = ScoreGrid(shape, "attention", magnitudes)
    parametrize.register_parametrization(linear, "weight", MaskedWeight(grid, shape))
    parametrize.register_parametrization(linear, "bias", MaskedBias(grid))
    return grid


def _mask_units(first: nn.Linear, second: nn.Linear, settings: MaskSettings) -> ScoreGrid:
    units = first.out_features
    magnitudes = None
    if settings.method == "magnitude":
        magnitudes = lambda: (  # noqa: E731
            block_magnitudes(_original(first), (units, 1)) + block_magnitudes(_original(second), (1, units)).T
        )
    grid = ScoreGrid((units, 1), "dense", magnitudes)
    parametrize.register_parametrization(first, "weight", MaskedWeight(grid, (units, 1)))
    parametrize.register_parametrization(first, "bias", MaskedBias(grid))
    parametrize.register_parametrization(second, "weight", MaskedWeight(grid, (1, units)))
    return grid


def _original(linear: nn.Linear) -> Tensor:
    """The weight without its mask."""
    if parametrize.is_parametrized(linear, "weight"):
        original = linear.parametrizations.weight.original  # type: ignore[union-attr]
        assert isinstance(original, Tensor)
        return original
    return linear.weight
