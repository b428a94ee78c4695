"""Between tensors and the packed module: names are the module's own, shapes are packed.

Stored weights are unscaled; 1/sqrt(head size) is multiplied into the query projection when the module is built. The
unscaled query tensors stay beside the module, so that what is written back equals what was read, bit for bit.

    packed = module_from_tensors(structure, config, tensors)
    tensors_from_module(packed)                       # the same tensors again
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from densepack_models.packed_bert import PackedBertForQuestionAnswering, SelfAttention, query_scale
from densepack_runtime.errors import CheckpointError
from densepack_runtime.structure import Structure


def tensor_name(parameter: str) -> str:
    """What a parameter of the packed module is called as a tensor: the same.

    Only the bare bias of a block that lost everything, "layer.3.ffn.bias", is the "layer.3.ffn.output.bias" that it
    always was.
    """
    return re.sub(r"^(layer\.\d+\.(attention|ffn))\.bias$", r"\1.output.bias", parameter)


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
            stored = tensor_name(name)
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
    """The module's tensors, queries unscaled: what `module_from_tensors` was given."""
    tensors = {tensor_name(name): parameter.detach() for name, parameter in packed.named_parameters()}
    for index, (weight, bias) in packed.unscaled_queries.items():
        prefix = f"layer.{index}.attention.query"
        tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"] = weight, bias
    return tensors


def _queries(packed: PackedBertForQuestionAnswering) -> Iterator[tuple[int, nn.Linear]]:
    for index, layer in enumerate(packed.layer):
        if isinstance(layer.attention, SelfAttention):
            yield index, layer.attention.query
