"""Shapes that are prepared for: what a batch is padded to, and the profiles of a plan.

A CUDA graph, a kernel and an optimisation profile belong to a shape, so that few of them should be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import InputError
from densepack_runtime.sessions.session import Batch

# Lengths that a GPU sees are rounded up to this: few shapes for CUDA graphs, at most 63 columns of padding.
LENGTH_STEP = 64


def bucket(real: tuple[int, int], largest: tuple[int, int]) -> tuple[int, int]:
    """The shape to pad a batch of (rows, length) to: rows up to the next power of two, length up to the next step.

    Never beyond `largest`, unless the batch itself is.
    """
    rows, length = 1 << (real[0] - 1).bit_length(), -(-real[1] // LENGTH_STEP) * LENGTH_STEP
    return max(real[0], min(rows, largest[0])), max(real[1], min(length, largest[1]))


def fill_padded(batch: Batch, targets: Mapping[str, NDArray[np.int64]]) -> None:
    """Write the inputs of a batch into larger arrays [B', S'], by name, padded with zeros.

    Rows of nothing but padding keep one token that counts: a softmax over nothing is no number.
    """
    rows, length = batch.shape
    for name, array in batch.arrays(tuple(targets)).items():
        target = targets[name]
        target[:rows, :length] = array
        target[:rows, length:] = 0
        target[rows:] = 0
    targets["attention_mask"][rows:, 0] = 1


@dataclass(frozen=True, slots=True)
class Profile:
    """Smallest, best and largest (batch, length) of one optimisation profile, the same for all three inputs."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse with less to go by. Raises InputError."""
        ordered = zip(self.min, self.opt, self.max, strict=True)
        if not all(1 <= smallest <= best <= largest for smallest, best, largest in ordered):
            raise InputError(f"the profile {self} cannot be: batch and length need 1 <= min <= opt <= max")

    def holds(self, shape: tuple[int, int]) -> bool:
        """Whether a batch of this (batch, length) can run in the profile."""
        return all(low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True))

    def corners(self) -> tuple[tuple[int, int], ...]:
        """The smallest, best and largest shape, each once."""
        return tuple(dict.fromkeys((self.min, self.opt, self.max)))

    def __str__(self) -> str:
        return " / ".join(f"{batch}x{length}" for batch, length in (self.min, self.opt, self.max))


def bucket_profiles(
    lengths: Sequence[int], max_batch: int, *, max_length: int, latency: bool = False
) -> tuple[Profile, ...]:
    """One profile per length bucket, each from the length after the one before it; `latency` adds batch 1 alone.

    One wide profile over two dynamic axes is slow (https://github.com/NVIDIA/TensorRT/issues/2115). Lengths beyond
    `max_length` are left out and it becomes the last bucket. Raises InputError for lengths that are not positive.
    """
    if max_batch < 1 or not lengths or min(lengths) < 1:
        raise InputError(f"profiles need a batch and lengths of at least 1, got {max_batch} and {list(lengths)}")
    edges = sorted({min(length, max_length) for length in lengths} | {max_length})
    starts = [1, *(edge + 1 for edge in edges)]
    wide = [Profile((1, start), (max_batch, end), (max_batch, end)) for start, end in zip(starts, edges, strict=False)]
    if not latency or max_batch == 1:
        return tuple(wide)
    narrow = [Profile((1, start), (1, end), (1, end)) for start, end in zip(starts, edges, strict=False)]
    return (*narrow, *wide)
