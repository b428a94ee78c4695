"""Two parts of transformers' encoders as they train fastest on a CPU; on a GPU they do what the originals do.

Under bfloat16 autocast PyTorch's fused attention has a backward pass ten times as slow as four plain products
(2.13, AVX-512, 36 windows of 160 tokens: 291 against 16 ms a layer), and drawing dropout masks number by number takes
as long as the layer itself.

    use_fast_layers(bert)                     # same parameters, same names, same results without dropout
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densepack_models.packed_bert import MASK_VALUE


def use_fast_layers(bert: nn.Module) -> None:
    """Replace dropout everywhere and self-attention where it has heads. The parameters stay where they are."""
    for module in list(bert.modules()):
        for name, child in module.named_children():
            if hasattr(child, "attention_head_size"):  # what transformers' self-attentions have, and nothing else
                setattr(module, name, FastSelfAttention(child))
            elif isinstance(child, nn.Dropout):
                setattr(module, name, FastDropout(child.p))


class FastSelfAttention(nn.Module):
    """Self-attention with one product for query, key and value. The width of the projections decides about heads.

    Projections keep their names. A fourth one is that of the output, which most families have outside.
    """

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.head_size: int = original.attention_head_size
        linear = {name: part for name, part in original.named_children() if isinstance(part, nn.Linear)}
        for name, part in linear.items():
            self.add_module(name, part)
        self._names = list(linear)
        self.dropout = FastDropout(original.dropout.p)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, **_: object) -> tuple[Tensor, None]:
        """[B, S, H] and a boolean mask [B, 1, S or 1, S], True where a token may be seen; [B, S, heads · D] out."""
        projections: list[Any] = [self.get_submodule(name) for name in self._names]
        weight = torch.cat([projection.weight for projection in projections[:3]])
        bias = torch.cat([projection.bias for projection in projections[:3]])
        batch, length = hidden.shape[:2]
        split = F.linear(hidden, weight, bias).view(batch, length, 3, -1, self.head_size)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # [B, heads, S, D] each
        attend = self._in_products if query.dtype == torch.bfloat16 and query.device.type == "cpu" else self._fused
        context = attend(query, key, value, attention_mask)
        joined = context.transpose(1, 2).reshape(batch, length, -1)
        return projections[3](joined) if len(projections) > 3 else joined, None

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropped = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropped)

    def _in_products(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            scores = torch.matmul(query * (1 / math.sqrt(self.head_size)), key.transpose(-1, -2))  # [B, heads, S, S]
            if mask is not None:  # the same for every query: only keys are padding
                scores = scores + (~mask[:, :, :1]).to(scores.dtype) * MASK_VALUE
            weights: Tensor = self.dropout(torch.softmax(scores, -1))
            return torch.matmul(weights, value)


class FastDropout(nn.Module):
    """Dropout that gets eight elements out of one random number on a CPU, so that p is a multiple of 1/256."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        dropped = min(255, round(256 * self.p))
        numbers = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
        return values * kept.to(values.dtype).mul_(256 / (256 - dropped))
