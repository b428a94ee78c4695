"""BERT for question answering with its own width in every layer: what is left after packing, as a plain nn.Module.

The module is written so that it exports and compiles well: attention is written out, 1/sqrt(head size) is inside the
query projection, the additive mask is finite, nothing depends on input values, and a layer that lost all its heads or
units is a constant bias and no matrix product.

Precision is in the types. Matrix products run in the dtype of their weights; LayerNorm and softmax run in the dtype of
the norm weights. With everything in float32 no cast exists; `typed_fp16` gives a copy with float16 products inside
float32 islands, and exporting that copy writes exactly those casts into the graph.

    packed = PackedBertForQuestionAnswering(structure)
    start, end = packed(input_ids, attention_mask, token_type_ids)     # float [B, S] each
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from densepack_runtime.structure import LayerStructure, Structure

# exp(-1e4) is zero in every float type and -1e4 fits float16; the usual -3.4e38 overflows there, and a row that is
# masked throughout becomes NaN.
MASK_VALUE = -1e4


class NoNorm(nn.Module):
    """The `no_norm` replacement of LayerNorm: x * weight + bias, element by element."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight + self.bias


class ResidualNorm(nn.Module):
    """norm(residual + update), computed in the dtype of the norm and returned in the dtype of the residual."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.norm = make_norm(structure, structure.hidden_size)

    def forward(self, residual: Tensor, update: Tensor) -> Tensor:
        island = self.norm.weight.dtype
        normed: Tensor = self.norm(residual.to(island) + update.to(island))
        return normed.to(residual.dtype)


class ConstantUpdate(nn.Module):
    """What remains of an attention or FFN block that lost everything: its output bias, [H]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self) -> Tensor:
        return self.bias


class Embeddings(nn.Module):
    """Word + token type + position embeddings, normed and, where they are not H wide, projected: [B, S, H]."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        width = structure.embedding_width
        self.pad_id = structure.position_pad_id
        self.token_types = structure.token_types
        self.word = nn.Embedding(structure.vocab_size, width)
        self.position = nn.Embedding(structure.max_position_embeddings, width)
        if structure.token_types != "none":
            self.token_type = nn.Embedding(structure.type_vocab_size, width)
        self.norm = make_norm(structure, width)
        self.project = nn.Linear(width, structure.hidden_size) if structure.is_projected else nn.Identity()

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        island = self.norm.weight.dtype
        positions = self._positions(input_ids)
        total = self.word(input_ids).to(island)  # [B, S, E]
        if self.token_types == "fed":
            total = total + self.token_type(token_type_ids).to(island)
        elif self.token_types == "constant":
            total = total + self.token_type.weight[0].to(island)
        total = total + positions.to(island)
        normed: Tensor = self.norm(total)
        hidden: Tensor = self.project(normed.to(self.word.weight.dtype))
        return hidden

    def _positions(self, input_ids: Tensor) -> Tensor:
        """Position embeddings by place, [S, E]; or by the number of tokens so far that are not padding, [B, S, E]."""
        if self.pad_id is None:
            return self.position.weight[: input_ids.shape[1]]
        real = (input_ids != self.pad_id).long()
        counted: Tensor = self.position(real.cumsum(1) * real + self.pad_id)
        return counted


class SelfAttention(nn.Module):
    """Attention with the heads that are left. The query projection already contains 1/sqrt(head size)."""

    def __init__(self, structure: Structure, layer: LayerStructure) -> None:
        super().__init__()
        self.num_heads = len(layer.heads)
        self.head_size = structure.head_size
        width = self.num_heads * self.head_size
        self.query = nn.Linear(structure.hidden_size, width)
        self.key = nn.Linear(structure.hidden_size, width)
        self.value = nn.Linear(structure.hidden_size, width)
        self.output = nn.Linear(width, structure.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        query = self._split(self.query(hidden))  # [B, heads, S, D]
        key = self._split(self.key(hidden))
        value = self._split(self.value(hidden))
        scores = torch.matmul(query, key.transpose(-1, -2))  # [B, heads, S, S]
        weights = torch.softmax(scores.to(mask.dtype) + mask, dim=-1).to(value.dtype)
        context = torch.matmul(weights, value)  # [B, heads, S, D]
        output: Tensor = self.output(context.transpose(1, 2).flatten(2))
        return output

    def _split(self, projected: Tensor) -> Tensor:
        batch, length, _ = projected.shape
        return projected.view(batch, length, self.num_heads, self.head_size).transpose(1, 2)


class FeedForward(nn.Module):
    """The two FFN projections with the units that are left."""

    def __init__(self, structure: Structure, layer: LayerStructure) -> None:
        super().__init__()
        self.intermediate = nn.Linear(structure.hidden_size, layer.ffn_width)
        self.activation = make_activation(structure.hidden_act)
        self.output = nn.Linear(layer.ffn_width, structure.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.output(self.activation(self.intermediate(hidden)))
        return output


class Layer(nn.Module):
    """One encoder layer. A block that lost everything is a `ConstantUpdate`."""

    def __init__(self, structure: Structure, layer: LayerStructure) -> None:
        super().__init__()
        hidden = structure.hidden_size
        self.attention = SelfAttention(structure, layer) if layer.heads else ConstantUpdate(hidden)
        self.attention_norm = ResidualNorm(structure)
        self.ffn = FeedForward(structure, layer) if layer.ffn_width else ConstantUpdate(hidden)
        self.ffn_norm = ResidualNorm(structure)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        update = self.attention(hidden, mask) if isinstance(self.attention, SelfAttention) else self.attention()
        hidden = self.attention_norm(hidden, update)
        update = self.ffn(hidden) if isinstance(self.ffn, FeedForward) else self.ffn()
        normed: Tensor = self.ffn_norm(hidden, update)
        return normed


class PackedBertForQuestionAnswering(nn.Module):
    """BERT for question answering with per-layer widths.

    Built with random weights from its structure; `densepack_models.pack` fills it from a checkpoint. `config` is the
    transformers configuration it came from, kept so that the model can be written back.
    """

    def __init__(self, structure: Structure, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.structure = structure
        self.config = dict(config or {})
        # Query weights and biases [H*D, hidden], [H*D] by layer, as stored: without the scale (see weights.py).
        self.unscaled_queries: dict[int, tuple[Tensor, Tensor]] = {}
        self.embeddings = Embeddings(structure)
        self.layer = nn.ModuleList(Layer(structure, layer) for layer in structure.layers)
        self.qa_outputs = nn.Linear(structure.hidden_size, 2)
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """int64 [B, S] in; start and end logits out, [B, S] each, float32 (float64 in a float64 module).

        Token types are needed where the structure says "fed", and do not count elsewhere.
        """
        island = self.embeddings.norm.weight.dtype
        mask = ((1 - attention_mask) * MASK_VALUE).to(island)[:, None, None, :]  # [B, 1, 1, S]
        hidden = self.embeddings(input_ids, token_type_ids)  # [B, S, H]
        for layer in self.layer:
            hidden = layer(hidden, mask)
        logits = self.qa_outputs(hidden).to(island)  # [B, S, 2]
        return logits[..., 0], logits[..., 1]

    def typed_fp16(self) -> PackedBertForQuestionAnswering:
        """A copy with float16 products and embeddings and float32 norms, softmax and logits."""
        return self._typed(torch.float16)

    def typed_bf16(self) -> PackedBertForQuestionAnswering:
        """The same with bfloat16 in place of float16."""
        return self._typed(torch.bfloat16)

    def _typed(self, dtype: torch.dtype) -> PackedBertForQuestionAnswering:
        typed = copy.deepcopy(self)
        for module in typed.modules():
            if not isinstance(module, nn.LayerNorm | NoNorm):  # never rounded: going through 16 bits would lose some
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
        return typed


def make_norm(structure: Structure, width: int) -> nn.LayerNorm | NoNorm:
    if structure.layer_norm_type == "no_norm":
        return NoNorm(width)
    return nn.LayerNorm(width, eps=structure.layer_norm_eps)


def make_activation(name: str) -> nn.Module:
    """gelu is the exact one (erf), gelu_new its tanh approximation, as in transformers."""
    activations: dict[str, nn.Module] = {
        "gelu": nn.GELU(),
        "gelu_new": nn.GELU(approximate="tanh"),
        "relu": nn.ReLU(),
    }
    return activations[name]


def query_scale(structure: Structure) -> float:
    """1/sqrt(head size): what packing multiplies into query weights and biases."""
    return 1 / math.sqrt(structure.head_size)
