"""Reviving what packing had to keep: zeros inside matrices that survive get a little of what their neighbours have.

A packed matrix is multiplied in full, zeros included; filled, they can learn at no cost.

    tensors, revived = fill_zeros(tensors_from_module(packed), seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

# Standard deviations of noise around the mean (the published run's value).
NOISE = 0.01
# In this order noise is drawn, and that of layers as text ("0", "1", "10", "11", "2"): it decides about every value.
_MATRICES = (
    "attention.output",
    "attention.key",
    "attention.query",
    "attention.value",
    "ffn.intermediate",
    "ffn.output",
)


def fill_zeros(tensors: Mapping[str, Tensor], *, seed: int) -> tuple[dict[str, Tensor], int]:
    """The tensors with every exact zero of the encoder's matrices at mean(v) + 0.01 · std(v) · N(0, 1) of its tensor.

    Also returns how many there were. A tensor that is all zeros stays so.
    """
    generator = torch.Generator().manual_seed(seed)
    filled, revived = dict(tensors), 0
    layers = sorted({name.split(".")[1] for name in tensors if name.startswith("layer.")})
    names = (f"layer.{layer}.{matrix}.weight" for layer, matrix in product(layers, _MATRICES))
    for name in (name for name in names if name in tensors):
        tensor = tensors[name]
        zero = tensor == 0
        if not zero.any() or zero.all():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        values = tensor.float().mean() + NOISE * tensor.float().std() * noise
        filled[name] = torch.where(zero, values.to(tensor.dtype), tensor)
        revived += int(zero.sum())
    return filled, revived
