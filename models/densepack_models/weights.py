"""Between tensors under transformers' names and the packed module.

Stored weights are unscaled; 1/sqrt(head size) is multiplied into the query projection when the module is built. The
unscaled query tensors stay beside the module, so that what is written back equals what was read, bit for bit.

    packed = module_from_tensors(structure, config, tensors)
    tensors_from_module(packed)                       # the same tensors again
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from densepack_models.packed_bert import PackedBertForQuestionAnswering, SelfAttention, query_scale
from densepack_runtime.errors import CheckpointError
from densepack_runtime.structure import Structure

_EMBEDDINGS = {
    "embeddings.word.weight": "bert.embeddings.word_embeddings.weight",
    "embeddings.position.weight": "bert.embeddings.position_embeddings.weight",
    "embeddings.token_type.weight": "bert.embeddings.token_type_embeddings.weight",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "qa_outputs": "qa_outputs",
}
_ATTENTION = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
}
_FFN = {"ffn.intermediate": "intermediate.dense", "ffn.output": "output.dense"}


def checkpoint_name(parameter: str) -> str:
    """The name under which transformers' checkpoints store a parameter of the packed module."""
    for ours, theirs in _EMBEDDINGS.items():
        if parameter == ours or parameter.startswith(f"{ours}."):
            return theirs + parameter.removeprefix(ours)
    _, number, rest = parameter.split(".", 2)
    return f"bert.encoder.layer.{number}.{_layer_name(rest)}"


def _layer_name(rest: str) -> str:
    special = {
        "attention.bias": "attention.output.dense.bias",  # a block that lost everything keeps its output bias
        "ffn.bias": "output.dense.bias",
        "attention_norm.norm.weight": "attention.output.LayerNorm.weight",
        "attention_norm.norm.bias": "attention.output.LayerNorm.bias",
        "ffn_norm.norm.weight": "output.LayerNorm.weight",
        "ffn_norm.norm.bias": "output.LayerNorm.bias",
    }
    if rest in special:
        return special[rest]
    for ours, theirs in (_ATTENTION | _FFN).items():
        if rest.startswith(f"{ours}."):
            return theirs + rest.removeprefix(ours)
    raise KeyError(rest)


def module_from_tensors(
    structure: Structure,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> PackedBertForQuestionAnswering:
    """Build the packed module from unscaled tensors at packed shapes, in `dtype`.

    Raises CheckpointError that lists every missing and every wrongly shaped tensor.
    """
    packed = PackedBertForQuestionAnswering(structure, dict(config)).to(dtype)
    faults = []
    with torch.no_grad():
        for name, parameter in packed.named_parameters():
            stored = checkpoint_name(name)
            if stored not in tensors:
                faults.append(f"{stored} is missing")
            elif tensors[stored].shape != parameter.shape:
                faults.append(f"{stored} is {list(tensors[stored].shape)} instead of {list(parameter.shape)}")
            else:
                parameter.copy_(tensors[stored])
    if faults:
        raise CheckpointError(f"the tensors do not fit the structure: {'; '.join(faults)}")
    for index, query in _queries(packed):
        packed.unscaled_queries[index] = (query.weight.detach().clone(), query.bias.detach().clone())
        with torch.no_grad():  # scaled in float64, so that one rounding is all that happens
            for tensor in (query.weight, query.bias):
                tensor.copy_((tensor.double() * query_scale(structure)).to(dtype))
    return packed


def tensors_from_module(packed: PackedBertForQuestionAnswering) -> dict[str, Tensor]:
    """The module's tensors under transformers' names, queries unscaled: what `module_from_tensors` was given."""
    tensors = {checkpoint_name(name): parameter.detach() for name, parameter in packed.named_parameters()}
    for index, (weight, bias) in packed.unscaled_queries.items():
        prefix = f"bert.encoder.layer.{index}.attention.self.query"
        tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"] = weight, bias
    return tensors


def _queries(packed: PackedBertForQuestionAnswering) -> Iterator[tuple[int, nn.Linear]]:
    for index, layer in enumerate(packed.layer):
        if isinstance(layer.attention, SelfAttention):
            yield index, layer.attention.query
