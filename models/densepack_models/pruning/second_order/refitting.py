"""Fitting what stays once more, layer by layer, to what the dense model has there.

The refit of a cut takes the inputs of a projection as the dense model has them. Behind layers that were cut they are
others. So each output projection, in the order of the forward pass, gets the least-squares correction with which the
state before its LayerNorm comes nearest to the dense model's; what the layers before have lost is in what it corrects.

    refit_layerwise(dense, cut, batches)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densepack_models.packed_bert import (
    MASK_VALUE,
    ConstantUpdate,
    FeedForward,
    Layer,
    PackedBertForQuestionAnswering,
    ResidualNorm,
    SelfAttention,
)
from densepack_models.pruning.second_order.removal import damped

Block = SelfAttention | FeedForward | ConstantUpdate


@torch.no_grad()
def refit_layerwise(
    dense: PackedBertForQuestionAnswering,
    cut: PackedBertForQuestionAnswering,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    autocast: torch.dtype | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Correct the output projections of `cut`, which came from `dense`, in place; where nothing lacks, nothing changes.

    `batches` are those of TrainingBatches. The hidden states of all their windows are held at once, for both models, on
    their device. `advance` is called after each layer.
    """
    device = next(cut.parameters()).device
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        seen = [_Batch.of(dense, cut, {name: one.to(device) for name, one in batch.items()}) for batch in batches]
        for whole, left in zip(dense.layer, cut.layer, strict=True):
            for (block, norm), (short, short_norm) in zip(_blocks(whole), _blocks(left), strict=True):
                lacking = _Regression()
                for batch in seen:
                    lacking.add(*batch.meet(block, short))
                _correct(short, *lacking.solution())
                for batch in seen:
                    batch.go_on(norm, short, short_norm)
            advance(1)


def _blocks(layer: nn.Module) -> tuple[tuple[Block, ResidualNorm], ...]:
    assert isinstance(layer, Layer)
    return (layer.attention, layer.attention_norm), (layer.ffn, layer.ffn_norm)


@dataclass
class _Batch:
    """Windows between two blocks: hidden states [B, S, H] of the dense model and of the one that was cut."""

    mask: Tensor  # [B, 1, 1, S], additive
    real: Tensor  # bool [B, S]
    dense: Tensor
    cut: Tensor

    @classmethod
    def of(
        cls, dense: PackedBertForQuestionAnswering, cut: PackedBertForQuestionAnswering, batch: Mapping[str, Tensor]
    ) -> _Batch:
        """Before the first layer."""
        real = batch["attention_mask"].bool()
        mask = (~real * MASK_VALUE)[:, None, None, :]
        whole, left = (model.embeddings(batch["input_ids"], batch["token_type_ids"]) for model in (dense, cut))
        return cls(mask, real, whole, left)

    def meet(self, block: Block, short: Block) -> tuple[Tensor, Tensor]:
        """Take the dense states to before the norm; of real tokens, inputs of the cut block's projection and what the
        other states would lack there.
        """
        self.dense = self.dense + self._update(block, self.dense)[0]
        update, inputs = self._update(short, self.cut)
        return inputs[self.real], (self.dense - (self.cut + update))[self.real]

    def go_on(self, norm: ResidualNorm, short: Block, short_norm: ResidualNorm) -> None:
        """Past the norm, with the cut block as it is by now."""
        self.dense = norm(self.dense, torch.zeros_like(self.dense))
        self.cut = short_norm(self.cut, self._update(short, self.cut)[0])

    def _update(self, block: Block, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What a block adds, [B, S, H], and the inputs of its output projection."""
        if isinstance(block, ConstantUpdate):
            return block().expand_as(hidden), hidden[..., :0]
        inputs: list[Tensor] = []
        handle = block.output.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        try:
            update = block(hidden, self.mask) if isinstance(block, SelfAttention) else block(hidden)
        finally:
            handle.remove()
        return update, inputs[0]


def _correct(block: Block, weight: Tensor, bias: Tensor) -> None:
    """Add to a block's output projection, or to its constant."""
    output = block if isinstance(block, ConstantUpdate) else block.output
    output.bias.add_(bias.to(output.bias))
    if isinstance(output, nn.Linear):
        output.weight.add_(weight.to(output.weight))


class _Regression:
    """Ridge regression of y [outputs] on x [inputs]. Products of a batch are float32, their sums float64."""

    def __init__(self) -> None:
        self._tokens = 0
        self._x = self._y = self._xx = self._yx = torch.zeros(())

    def add(self, x: Tensor, y: Tensor) -> None:
        """x [tokens, inputs] and y [tokens, outputs]."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = x.float(), y.float()
            self._tokens += len(x)
            self._x, self._y = self._x + x.double().sum(0), self._y + y.double().sum(0)
            self._xx, self._yx = self._xx + (x.T @ x).double(), self._yx + (y.T @ x).double()

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weight [outputs, inputs] and bias [outputs], float64."""
        x, y = self._x / self._tokens, self._y / self._tokens
        covariance = damped(self._xx / self._tokens - torch.outer(x, x))
        across = self._yx / self._tokens - torch.outer(y, x)
        weight: Tensor = torch.linalg.solve(covariance, across.T).T
        return weight, y - weight @ x
