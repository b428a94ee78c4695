"""Training batches: windows of similar length under a budget of padded tokens, in a new random order every pass.

A pass sorts the windows by length, with ties at random, and cuts the list: so every pass has the same number of
batches, and any pass can be made again from its number alone.

    batches = TrainingBatches(windows, token_budget=6144, seed=0)
    batches.set_epoch(1); batches[0]["input_ids"]                  # int64 [B, S]
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from densepack_models.pruning.training_data import TrainingWindows
from densepack_runtime.errors import InputError

# Lengths are rounded up to this: a backend that prepares itself for every shape then sees few.
LENGTH_MULTIPLE = 16


class TrainingBatches(Dataset[dict[str, Tensor]]):
    """Item i is the i-th batch of the present pass, int64: input_ids, attention_mask, token_type_ids [B, S], the
    answer's start and end [B], and `window` [B], which windows they are.
    """

    def __init__(self, windows: TrainingWindows, *, token_budget: int, seed: int) -> None:
        longest = int(windows.lengths.max())
        if token_budget < longest:
            raise InputError(
                f"a batch of {token_budget} tokens cannot hold the longest window, {longest} tokens: raise "
                "--token-budget or lower --max-length"
            )
        self.windows = windows
        self.seed = seed
        self._cuts = _cut(np.sort(windows.lengths)[::-1], token_budget)
        self._plan: list[NDArray[np.int64]] = []
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def set_epoch(self, epoch: int) -> None:
        """Make the batches of a pass."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        shuffled = generator.permutation(len(self.windows))
        by_length = shuffled[np.argsort(-self.windows.lengths[shuffled], kind="stable")]
        batches = [by_length[start:stop] for start, stop in zip(self._cuts[:-1], self._cuts[1:], strict=True)]
        self._plan = [batches[place] for place in generator.permutation(len(batches))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return padded_batch(self.windows, self._plan[index])


def _cut(lengths: NDArray[np.int64], token_budget: int) -> list[int]:
    """Where batches of windows with these lengths, longest first, begin; and the end."""
    cuts = [0]
    while cuts[-1] < len(lengths):
        rows = token_budget // min(token_budget, _rounded(int(lengths[cuts[-1]])))
        cuts.append(min(len(lengths), cuts[-1] + rows))
    return cuts


def _rounded(length: int) -> int:
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def padded_batch(windows: TrainingWindows, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
    """The chosen windows, padded to one length."""
    lengths = windows.lengths[chosen]
    width = min(_rounded(int(lengths.max())), int(windows.lengths.max()))
    columns = np.arange(width)
    mask = columns < lengths[:, None]  # [B, S]
    places = np.minimum(windows.offsets[chosen][:, None] + columns, len(windows.token_ids) - 1)
    input_ids = np.where(mask, windows.token_ids[places], windows.pad_id)
    second = mask & (columns >= windows.context_start[chosen][:, None])
    arrays = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "token_type_ids": second,
        "start": windows.start[chosen],
        "end": windows.end[chosen],
        "window": chosen,
    }
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
