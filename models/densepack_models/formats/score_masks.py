"""Binary masks from scores, with a gradient: which blocks of a matrix, or which FFN units, are kept.

Forward the mask is 0 or 1, backward it is straight-through: a score gets the gradient of its mask entry, as movement
pruning wants it (Sanh et al. 2020, arXiv 2005.07683). Whatever the threshold, a share of the scores survives.

    mask = grid_mask(scores, "sigmoid", threshold=0.1)        # float32, the shape of the scores
    masked = expand(mask, (32, 32)) * weight                  # autograd sums the gradient over each block
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from densepack_models.formats.score_methods import LEAST_SHARE, RANKED, Method

# Hard concrete distribution (Louizos et al. 2018, arXiv 1712.01312, section 2.2): ends and temperature.
L0_LEFT, L0_RIGHT, L0_TEMPERATURE = -0.1, 1.1, 2 / 3


def grid_mask(
    scores: Tensor, method: Method, threshold: float, *, least_share: float = LEAST_SHARE, noisy: bool = False
) -> Tensor:
    """The mask of a grid of scores, in their shape: 0 and 1, for "l0" anything between.

    At least ⌊least_share · n⌋ + 1 entries are kept, the best ones; of equal scores the first. `noisy` samples the mask
    of "l0" as in training. Gradients go straight through, except for "l0", which has its own.
    """
    if method == "l0":
        return hard_concrete(scores, noisy=noisy)
    least = least_survivors(scores.numel(), least_share)
    if method in RANKED:
        hard = top_mask(scores, max(least, math.floor(threshold * scores.numel())))
    else:
        passed = (torch.sigmoid(scores) if method == "sigmoid" else scores) > threshold
        # When enough pass, the best are among them; when too few do, the best replace them.
        hard = (passed | (top_mask(scores, least) > 0)).to(scores.dtype)
    return straight_through(hard, scores)


def least_survivors(count: int, least_share: float = LEAST_SHARE) -> int:
    """How many of `count` entries survive any threshold."""
    return min(count, int(least_share * count) + 1)


def top_mask(scores: Tensor, count: int) -> Tensor:
    """1 for the `count` largest scores, 0 for the rest; of equal ones the first. No gradient."""
    order = scores.detach().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=scores.dtype, device=scores.device)
    mask[order[: max(0, count)]] = 1
    return mask.view(scores.shape)


def straight_through(hard: Tensor, scores: Tensor) -> Tensor:
    """`hard` forward; backward its gradient becomes that of the scores."""
    return hard.detach() + (scores - scores.detach())  # what is added is exactly zero


def hard_concrete(scores: Tensor, *, noisy: bool = False) -> Tensor:
    """Scores as masks between 0 and 1; `noisy` samples as in training."""
    logits = scores
    if noisy:
        uniform = torch.rand_like(scores).clamp(1e-6, 1 - 1e-6)
        logits = (uniform.log() - (1 - uniform).log() + scores) / L0_TEMPERATURE
    return (torch.sigmoid(logits) * (L0_RIGHT - L0_LEFT) + L0_LEFT).clamp(0, 1)


def expand(mask: Tensor, block: tuple[int, int]) -> Tensor:
    """A grid [rows, columns] at the size of its matrix, [rows · block rows, columns · block columns]."""
    return mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def masked_matrix(weight: Tensor, mask: Tensor) -> Tensor:
    """weight ∘ expanded mask, without writing the expansion: the block size is weight size over mask size."""
    rows, columns = mask.shape
    blocks = weight.view(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)
    return (blocks * mask[:, None, :, None]).view(weight.shape)


def block_magnitudes(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean absolute value of every block of a matrix, [rows, columns] of the grid. No gradient."""
    rows, columns = grid
    blocks = weight.detach().view(rows, weight.shape[0] // rows, columns, weight.shape[1] // columns)
    return blocks.abs().float().mean((1, 3))


def keep_likelihood(scores: Tensor, method: Method) -> Tensor:
    """What the regulariser takes the mean of: sigmoid(S), for "l0" the probability that the mask is not zero."""
    shift = L0_TEMPERATURE * math.log(-L0_LEFT / L0_RIGHT) if method == "l0" else 0.0
    return torch.sigmoid(scores - shift)
