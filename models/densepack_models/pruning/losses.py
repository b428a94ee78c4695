"""What training minimises: distillation, cross-entropy with the answers, and the regulariser of the scores.

    loss = 0.9 · KD + 0.1 · CE + λ · R

Logits are float32 [B, S], padding never counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from densepack_models.formats.score_masks import keep_likelihood
from densepack_models.formats.score_methods import Method
from densepack_models.pruning.options import TEMPERATURE

# exp of it is zero, and unlike -inf it keeps 0 · log(0) finite.
_PADDING_LOGIT = -1e4


@dataclass(frozen=True, slots=True)
class SpanLogits:
    """Start and end logits, float [B, S]."""

    start: Tensor
    end: Tensor

    def pairs(self) -> tuple[Tensor, Tensor]:
        return self.start, self.end


def without_padding(logits: SpanLogits, attention_mask: Tensor) -> SpanLogits:
    """float32 logits with padding at a value whose softmax is zero."""
    padding = attention_mask == 0
    start, end = (part.float().masked_fill(padding, _PADDING_LOGIT) for part in logits.pairs())
    return SpanLogits(start, end)


def distillation_loss(
    student: SpanLogits, teacher: SpanLogits, attention_mask: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """KL(teacher ‖ student) of the softened distributions times temperature², mean over start, end and batch."""
    ours, theirs = without_padding(student, attention_mask), without_padding(teacher, attention_mask)
    parts = [
        F.kl_div(
            F.log_softmax(mine / temperature, -1),
            F.log_softmax(other / temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        for mine, other in zip(ours.pairs(), theirs.pairs(), strict=True)
    ]
    return torch.stack(parts).mean() * temperature**2


def answer_loss(student: SpanLogits, start: Tensor, end: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the cross-entropies of start and end positions, int64 [B]; one value a row, [B]."""
    logits = without_padding(student, attention_mask)
    return (
        F.cross_entropy(logits.start, start, reduction="none") + F.cross_entropy(logits.end, end, reduction="none")
    ) / 2


def score_regulariser(
    attention: Iterable[Tensor],
    dense: Iterable[Tensor],
    *,
    attention_coefficient: float,
    dense_coefficient: float,
    method: Method,
) -> Tensor:
    """R: for each kind, coefficient / 2 · mean over its grids of mean(sigmoid(S)). 0 without scores.

    With all scores at 0, R is (attention + dense coefficient) / 4: 0.3125 for the published run.
    """
    total = torch.zeros(())
    for grids, coefficient in ((attention, attention_coefficient), (dense, dense_coefficient)):
        means = [keep_likelihood(scores, method).mean() for scores in grids]
        if means:
            total = total.to(means[0].device) + coefficient / 2 * torch.stack(means).mean()
    return total
