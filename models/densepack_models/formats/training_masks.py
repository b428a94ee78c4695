"""Checkpoints of nn_pruning's training: dense weights beside scores, of which masks have yet to be made.

Such a file has `….mask_module.context_modules.N.mask_scores` next to weights. For a matrix W [out, in] with bias b:

    y = x (M ∘ W)ᵀ + b ∘ [row of M has any 1]          (the bias part only where the settings have bias_mask)

M expands a grid of scores by its block size. The form "1d_alt" has one score per FFN unit instead, for the rows of the
first matrix and the columns of the second. Evaluation uses the final threshold, and so does this module (Lagunas et
al. 2021, arXiv 2109.04838).

    plain, config, faults = apply_masks(family, tensors, config, read_sparse_settings(folder))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from densepack_models.families.family import Family
from densepack_models.formats.config import structure_from_config
from densepack_models.formats.score_masks import hard_concrete, top_mask
from densepack_models.formats.score_methods import LEAST_SHARE
from densepack_models.formats.sparse_args import MaskRule, SparseSettings
from densepack_models.formats.tensors import QKV

SCORES = "mask_scores"
_Fault = tuple[str, str]  # a tensor's name, and what is wrong with it


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One masked matrix. `places` are its score tensors by the axes they span: the names each may be stored under."""

    prefix: str
    rule: MaskRule
    places: dict[tuple[int, ...], tuple[str, ...]]


def has_mask_scores(tensors: Mapping[str, Tensor]) -> bool:
    """Whether this is a training checkpoint of nn_pruning."""
    return any(name.endswith(SCORES) for name in tensors)


def apply_masks(
    family: Family, tensors: Mapping[str, Tensor], config: Mapping[str, Any], settings: SparseSettings
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Plain tensors, their configuration, and the faults found in scores (then the tensors are not all masked).

    Masked weights are exactly zero. Scores, and what else only training needs, are gone from the result.
    """
    scores = {name: tensor for name, tensor in tensors.items() if name.endswith(SCORES)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in scores}
    sizes = structure_from_config(config)
    matrices = list(_matrices(sizes.num_layers, settings))
    known = {name for matrix in matrices for names in matrix.places.values() for name in names}
    faults = [(name, f"{list(tensor.shape)} is unexpected") for name, tensor in scores.items() if name not in known]
    for matrix in matrices:
        weight = plain.get(f"{matrix.prefix}weight")
        if weight is None or weight.ndim != 2:
            continue  # reported with the other tensors
        mask, more = _mask(matrix, weight, scores, settings)
        faults += more
        if mask is not None:
            _apply(plain, matrix.prefix, mask.expand(weight.shape), settings.mask_biases)
    config = dict(config)
    if settings.norms_to_no_norm:
        faults += _fold_norms(plain, sizes.layer_norm_eps)
        config[family.config_keys["layer_norm_type"]] = "no_norm"
    if settings.gelu_to_relu:
        config[family.config_keys["hidden_act"]] = "relu"
    return plain, config, [f"{family.file_name(name)} {fault}" for name, fault in faults]


def _matrices(layers: int, settings: SparseSettings) -> Iterator[_Matrix]:
    """The masked matrices. A vector of scores between two FFN matrices belongs to both, and is stored with either."""
    for index in range(layers):
        if rule := settings.query_key_value:
            for name in QKV:
                prefix = f"layer.{index}.attention.{name}."
                yield _Matrix(prefix, rule, {(0, 1): (_scores(prefix, 0),)})
        output, first, second = (
            f"layer.{index}.{name}." for name in ("attention.output", "ffn.intermediate", "ffn.output")
        )
        before = (_scores(first, 1), _scores(output, 0))
        between = (_scores(first, 0), _scores(second, 1))
        if rule := settings.attention_output:
            yield _matrix(output, rule, before[::-1], (_scores(output, 1),), alternate=1)
        if rule := settings.ffn:
            yield _matrix(first, rule, between, before, alternate=0)
            yield _matrix(second, rule, (_scores(second, 0),), between[::-1], alternate=1)


def _matrix(prefix: str, rule: MaskRule, rows: tuple[str, ...], columns: tuple[str, ...], *, alternate: int) -> _Matrix:
    """A matrix with a grid of scores, or with vectors for both axes, or for the axis `alternate` alone."""
    vectors: dict[tuple[int, ...], tuple[str, ...]] = {(0,): rows, (1,): columns}
    if rule.form == "1d":
        return _Matrix(prefix, rule, vectors)
    if rule.form == "1d_alt":
        return _Matrix(prefix, rule, {(alternate,): vectors[(alternate,)]})
    return _Matrix(prefix, rule, {(0, 1): (_scores(prefix, 0),)})


def _scores(prefix: str, number: int) -> str:
    return f"{prefix}mask_module.context_modules.{number}.{SCORES}"


def _mask(
    matrix: _Matrix, weight: Tensor, scores: Mapping[str, Tensor], settings: SparseSettings
) -> tuple[Tensor | None, list[_Fault]]:
    """The mask of a matrix, [out, in] or with an axis of size 1; or what is wrong with its scores."""
    rule = matrix.rule
    if rule.method == "magnitude":  # the weights are the scores, whatever else is stored
        return top_mask(weight.abs().float(), int(settings.threshold * weight.numel())), []
    if any(size % block for size, block in zip(weight.shape, rule.block, strict=True)):
        fault = f"{list(weight.shape)} does not divide into blocks of {list(rule.block)}"
        return None, [(f"{matrix.prefix}weight", fault)]
    grid = [size // block for size, block in zip(weight.shape, rule.block, strict=True)]
    combined, faults = torch.ones(1, 1), []
    for axes, names in matrix.places.items():
        name = next((name for name in names if name in scores), None)
        expected = [grid[axis] for axis in axes]
        if name is None:
            faults.append((names[0], "is missing"))
        elif list(scores[name].shape) != expected:
            faults.append((name, f"is {list(scores[name].shape)} instead of {expected}"))
        else:  # where both axes have a vector, an entry's score is the product
            combined = combined * scores[name].float().view([grid[axis] if axis in axes else 1 for axis in (0, 1)])
    if faults:
        return None, faults
    mask = mask_from_scores(combined, rule.method, settings.threshold, settings.least_share)
    for axis in (0, 1):
        if mask.shape[axis] > 1:
            mask = mask.repeat_interleave(rule.block[axis], axis)
    return mask, []


def mask_from_scores(scores: Tensor, method: str, threshold: float, least_share: float = LEAST_SHARE) -> Tensor:
    """The evaluation mask of float32 scores of any shape: 0 and 1, for "l0" anything between.

    Where fewer than ⌊least_share · n⌋ + 1 scores pass a threshold, the best that many pass instead.
    """
    if method == "topK":
        return top_mask(scores, int(threshold * scores.numel()))
    if method == "l0":
        return hard_concrete(scores)
    passed = (torch.sigmoid(scores) if method == "sigmoied_threshold" else scores) > threshold
    least = int(least_share * scores.numel()) + 1 if least_share else 0
    return passed.float() if int(passed.sum()) >= least else top_mask(scores, least)


def _apply(plain: dict[str, Tensor], prefix: str, mask: Tensor, mask_bias: bool) -> None:
    weight, bias = plain[f"{prefix}weight"], plain.get(f"{prefix}bias")
    if ((mask != 0) & (mask != 1)).any():  # only L0's masks scale; one rounding
        weight = (weight.double() * mask).to(weight.dtype)
    plain[f"{prefix}weight"] = weight.masked_fill(mask == 0, 0)
    if mask_bias and bias is not None and bias.shape == weight.shape[:1]:
        plain[f"{prefix}bias"] = bias.masked_fill((mask == 0).all(1), 0)


def _fold_norms(plain: dict[str, Tensor], eps: float) -> list[_Fault]:
    """Make plain scales of norms that training had slowly turned into such: x·weight + bias with running statistics.

    Beside its weight such a norm has `accumulator` [3]: sums of means and variances, and how many.
    """
    faults = []
    for name in [name for name in plain if name.endswith("norm.weight")]:
        prefix = name.removesuffix("weight")
        accumulator = f"{prefix}accumulator"
        sums = plain.pop(accumulator, None)
        if sums is None:
            faults.append((accumulator, "is missing"))
        elif sums.shape != (3,) or not sums[2] > 0 or sums[1] < 0:
            faults.append((accumulator, f"is {sums.tolist()}: a mean, a variance and a count above 0 are needed"))
        elif f"{prefix}bias" in plain:
            mean, variance, count = sums.double().tolist()
            scale = plain[name].double() / math.sqrt(variance / count + eps)
            shift = plain[f"{prefix}bias"].double() - mean / count * scale
            plain[f"{prefix}bias"] = shift.to(plain[f"{prefix}bias"].dtype)
            plain[name] = scale.to(plain[name].dtype)
    return faults
