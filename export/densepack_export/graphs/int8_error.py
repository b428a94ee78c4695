"""Which products bear INT8 with scales that never change, and the ranges that lose them least.

    ranges = measure_int8_ranges(packed, batches)
    ranges.save(bundle.path(INT8_RANGES_NAME))

One scale serves all inputs of a product, and a few inputs of an encoder are many times larger than the rest. What an
input is divided by, its weights are multiplied by: a part of the difficulty moves into the weights, which have a scale
for every output (Xiao et al. 2022, SmoothQuant). How large a part is chosen for each product by the error that it makes
on real tokens, and products that err by more than LIMIT keep bfloat16: FFN outputs, mostly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import InputError
from densepack_runtime.sessions.int8_ranges import Int8Ranges
from densepack_runtime.sessions.openvino_int8 import in_steps, is_worth_it, quantised
from densepack_runtime.sessions.session import Batch, graph_inputs

# The norm of a product's error over that of the product. The embedded checkpoint on 256 windows: with products below
# 0.008 98.0 % have the same best span, below 0.012 96.5 %, below 0.015 94.9 % (BF16 98.8 %); parity asks for 95 %.
LIMIT = 0.012
# How many windows are enough to measure it on.
WINDOWS = 128
# How much of an input's magnitude its range follows; the rest follows its weights.
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS_OF_A_BATCH = 64
# Inputs that stay near 0 are not made larger than this share of the largest, and may well appear elsewhere.
_SMALLEST = 1e-6


@dataclass
class _Taken:
    """Products that share an input, with their weights; how large each value of it became, and some of its tokens."""

    products: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    largest: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, values: NDArray[np.float32]) -> None:
        """float32 [tokens, inputs]."""
        self.largest = np.maximum(self.largest, np.abs(values).max(axis=0))
        places = np.linspace(0, len(values) - 1, num=min(ROWS_OF_A_BATCH, len(values))).astype(int)
        self.rows.append(values[places].copy())


def measure_int8_ranges(
    packed: PackedBertForQuestionAnswering, batches: Iterable[Batch], *, limit: float = LIMIT
) -> Int8Ranges:
    """Run the batches through the float32 module; the ranges of each product that errs by `limit` at most.

    Raises InputError when there is no batch.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for one in _watch(packed, batches):
        ranges, error = best_ranges(np.concatenate(one.rows), one.largest, np.concatenate(list(one.products.values())))
        if error <= limit:
            found |= dict.fromkeys(one.products, ranges)
    return Int8Ranges(found)


def best_ranges(
    rows: NDArray[np.float32], largest: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """Ranges float32 [inputs] with the smallest error of rows @ weights.T, and that error as a share of the product.

    `rows` is [tokens, inputs], `largest` [inputs] the largest magnitude of each input, `weights` [outputs, inputs].
    """
    exact = rows @ weights.T
    norm = float(np.linalg.norm(exact))
    inputs, columns = (_not_near_zero(values) for values in (largest, np.abs(weights).max(axis=0)))
    tried = []
    for share in SHARES:
        scales = inputs**share / columns ** (1 - share)
        ranges = (scales * (inputs / scales).max()).astype(np.float32)
        values, steps = quantised(weights * ranges)
        product = in_steps(rows / ranges) @ (values * steps).T
        tried.append((float(np.linalg.norm(product - exact)) / norm if norm else 0.0, ranges))
    error, ranges = min(tried, key=lambda one: one[0])
    return ranges, error


def _not_near_zero(values: NDArray[np.float32]) -> NDArray[np.float32]:
    top = values.max() or np.float32(1)
    return np.maximum(values, _SMALLEST * top)


def _watch(packed: PackedBertForQuestionAnswering, batches: Iterable[Batch]) -> list[_Taken]:
    """What the products that could be in INT8 take in on these batches, padding aside."""
    watch = _Watch()
    hooks = [
        module.register_forward_pre_hook(partial(watch.before, name))
        for name, module in packed.named_modules()
        if isinstance(module, nn.Linear) and is_worth_it(*module.weight.shape)
    ]
    names = graph_inputs(packed.structure.token_types)
    try:
        with torch.inference_mode():
            for batch in batches:
                watch.real = torch.from_numpy(batch.attention_mask.astype(bool))
                packed(**{name: torch.from_numpy(array) for name, array in batch.arrays(names).items()})
    finally:
        for hook in hooks:
            hook.remove()
    if watch.real is None:
        raise InputError("nothing to measure INT8 ranges on: pass at least one batch")
    return list(watch.taken.values())


class _Watch:
    """Hears of every product before it is computed. Products that follow each other with one input share a `_Taken`."""

    def __init__(self) -> None:
        self.taken: dict[str, _Taken] = {}  # by the first product of those that share an input
        self.real: Tensor | None = None  # bool [B, S], of the batch that is run
        self._first, self._last = "", torch.empty(0)

    def before(self, name: str, module: nn.Linear, inputs: tuple[Tensor]) -> None:
        [hidden] = inputs
        if hidden is not self._last:
            self._first, self._last = name, hidden
            assert self.real is not None
            self.taken.setdefault(name, _Taken()).add(hidden[self.real].numpy())
        self.taken[self._first].products[name] = module.weight.detach().numpy()
