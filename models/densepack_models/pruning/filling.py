"""Reviving what packing had to keep: zeros inside matrices that survive get a little of what their neighbours have.

A packed matrix is multiplied in full, zeros included; filled, they can learn at no cost.

    tensors, revived = fill_zeros(tensors_from_module(packed), seed=0)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Standard deviations of noise around the mean (the published run's value).
NOISE = 0.01
_MATRICES = (".query.weight", ".key.weight", ".value.weight", ".dense.weight")


def fill_zeros(tensors: Mapping[str, Tensor], *, seed: int) -> tuple[dict[str, Tensor], int]:
    """The tensors with every exact zero of the encoder's matrices at mean(v) + 0.01 · std(v) · N(0, 1) of its tensor.

    Also returns how many there were. A tensor that is all zeros stays so.
    """
    generator = torch.Generator().manual_seed(seed)
    filled, revived = dict(tensors), 0
    for name in sorted(tensors):
        tensor = tensors[name]
        zero = tensor == 0
        if not (name.startswith("bert.encoder.") and name.endswith(_MATRICES)) or not zero.any() or zero.all():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        values = tensor.float().mean() + NOISE * tensor.float().std() * noise
        filled[name] = torch.where(zero, values.to(tensor.dtype), tensor)
        revived += int(zero.sum())
    return filled, revived
