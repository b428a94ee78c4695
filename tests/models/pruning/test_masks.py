"""Masks on known scores, their gradients, the floor on survivors, and what they do inside a module."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from densepack_models.formats.score_masks import (
    block_magnitudes,
    expand,
    grid_mask,
    keep_likelihood,
    least_survivors,
    masked_matrix,
)
from densepack_models.formats.score_methods import METHODS, Method
from densepack_models.pruning.masked import MaskSettings
from densepack_models.pruning.student import Student, finished_checkpoint, packed_student, student_from_checkpoint
from densepack_models.reference import reference_module
from densepack_runtime.errors import InputError
from tests.models.pruning.tiny_task import random_inputs, tiny_start

SCORES = torch.tensor([[2.0, -3.0, 0.5], [0.0, -2.5, 0.15]])


@pytest.mark.parametrize(
    ("method", "threshold", "expected"),
    [
        ("sigmoid", 0.0, [[1, 1, 1], [1, 1, 1]]),
        ("sigmoid", 0.1, [[1, 0, 1], [1, 0, 1]]),  # sigmoid(S) > 0.1 where S > -2.197
        ("sigmoid", 0.5, [[1, 0, 1], [0, 0, 1]]),  # not more than 0.5 at 0
        ("threshold", 0.1, [[1, 0, 1], [0, 0, 1]]),
        ("threshold", -2.5, [[1, 0, 1], [1, 0, 1]]),
        ("topk", 0.5, [[1, 0, 1], [0, 0, 1]]),
        ("topk", 0.34, [[1, 0, 1], [0, 0, 0]]),  # ⌊0.34 · 6⌋ = 2
        ("magnitude", 1.0, [[1, 1, 1], [1, 1, 1]]),
        ("magnitude", 0.67, [[1, 0, 1], [1, 0, 1]]),
    ],
)
def test_masks_of_known_scores(method: Method, threshold: float, expected: list[list[int]]) -> None:
    assert grid_mask(SCORES, method, threshold).tolist() == expected


def test_hard_concrete() -> None:
    """Evaluation: clamp(1.2 · sigmoid(S) − 0.1, 0, 1)."""
    mask = grid_mask(torch.tensor([-10.0, 0.0, 1.0, 10.0]), "l0", 0.1)
    assert mask.tolist() == pytest.approx([0, 0.5, 1.2 / (1 + math.exp(-1)) - 0.1, 1])
    torch.manual_seed(0)
    noisy = torch.stack([grid_mask(torch.zeros(1000), "l0", 0.1, noisy=True) for _ in range(20)])
    assert (noisy > 0).float().mean() == pytest.approx(float(keep_likelihood(torch.zeros(1), "l0")), abs=0.01)
    assert noisy.mean() == pytest.approx(0.5, abs=0.01)


@given(
    method=st.sampled_from(METHODS),
    values=st.lists(st.sampled_from([-9.0, -2.2, 0.0, 0.3]), min_size=1, max_size=40),
    threshold=st.floats(0, 1),
    least_share=st.sampled_from([0.0, 0.005, 0.3]),
)
def test_ties_never_empty_a_mask(method: Method, values: list[float], threshold: float, least_share: float) -> None:
    scores = torch.tensor(values)
    if method == "l0":
        return
    mask = grid_mask(scores, method, threshold, least_share=least_share)
    kept = int(mask.sum())
    assert kept >= least_survivors(len(values), least_share) >= 1
    assert ((mask == 0) | (mask == 1)).all()
    if 0 < kept < len(values):
        assert scores[mask == 1].min() >= scores[mask == 0].max()


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 6), (4, 1)])
def test_gradients_of_scores_are_block_sums(block: tuple[int, int]) -> None:
    """Straight through: dL/dS = block sum of dL/dM, the derivative by the mask, here taken by finite differences."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    inputs = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    scores = torch.randn(4 // block[0], 6 // block[1], dtype=torch.float64, generator=generator, requires_grad=True)

    def loss(mask: Tensor) -> Tensor:
        total: Tensor = (inputs @ masked_matrix(weight, mask).T).sin().sum()
        return total

    mask = grid_mask(scores, "sigmoid", 0.45)
    loss(mask).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    step = 1e-6
    for index in range(scores.numel()):
        change = torch.zeros_like(scores).flatten()
        change[index] = step
        change = change.view(scores.shape)
        slope = (loss(mask.detach() + change) - loss(mask.detach() - change)) / (2 * step)
        assert float(scores.grad.flatten()[index]) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)
    torch.testing.assert_close(masked_matrix(weight, mask), expand(mask, block) * weight)


def test_gradients_through_a_whole_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every grid of a model, the shared FFN vector and the transposed output included, by finite differences."""
    start = tiny_start(scale=2.0)
    student = scattered(student_from_checkpoint(start, MaskSettings(attention_block=(4, 8)))).double().eval()
    inputs = random_inputs(start.config["vocab_size"])

    def loss() -> Tensor:
        first, last = student(*inputs)
        total: Tensor = (first.sin() * 3 + last.cos()).sum()
        return total

    loss().backward()  # type: ignore[no-untyped-call]
    masks = student.masks
    assert masks is not None
    monkeypatch.setattr(masks, "refresh", lambda **_: None)
    step = 1e-6
    for name, grid in masks.named_grids():
        assert grid.scores is not None
        assert grid.scores.grad is not None
        mask = grid.mask.detach()
        # An entry that is kept: there the bias, which only asks whether its row lives, stays what it is.
        place = int((grid.scores.grad.abs() * mask).argmax())
        losses = []
        for change in (step, -step):
            grid.mask = mask.clone()
            grid.mask.view(-1)[place] += change
            losses.append(loss().item())
        grid.mask = mask
        slope = (losses[0] - losses[1]) / (2 * step)
        assert abs(slope) > 1e-4, name
        assert float(grid.scores.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-4), name


def scattered(student: Student, seed: int = 1) -> Student:
    """Random scores, of which about half are above the last threshold."""
    assert student.masks is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for scores in (*student.masks.scores("attention"), *student.masks.scores("dense")):
            scores.copy_(torch.randn(scores.shape, generator=generator) - 2.2)
    return student


@pytest.mark.parametrize("block", [(4, 4), (8, 8), (16, 2), (32, 32), None])
@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_what_is_masked_packs_exactly(block: tuple[int, int] | None, act: str) -> None:
    """The masked module, the checkpoint written of it, transformers' module on that, and the packed one agree."""
    start = tiny_start(hidden_act=act)
    student = scattered(student_from_checkpoint(start, MaskSettings(attention_block=block))).eval()
    inputs = random_inputs(start.config["vocab_size"])
    finished = finished_checkpoint(student)
    packed = packed_student(student)
    assert packed.structure.linear_density < 1
    with torch.no_grad():
        masked = torch.stack(student(*inputs))
        reference = torch.stack(reference_module(finished)(*inputs))
        short = torch.stack(packed(*inputs))
    real = inputs[1] > 0
    torch.testing.assert_close(masked[:, real], reference[:, real], rtol=0, atol=2e-5)
    torch.testing.assert_close(short[:, real], reference[:, real], rtol=0, atol=2e-5)


def test_biases_of_dead_rows_are_masked() -> None:
    student = student_from_checkpoint(tiny_start(), MaskSettings(attention_block=(8, 32)))
    assert student.masks is not None
    grid = dict(student.masks.named_grids())["0_value"]
    assert grid.scores is not None
    with torch.no_grad():
        grid.scores[1] = -9
    student.masks.refresh_final()
    bias = student.linear("layer.0.attention.value").bias
    assert torch.equal(bias == 0, torch.arange(32) // 8 == 1)


def test_the_original_weights_stay_loadable() -> None:
    """Masks are parametrisations: under them lie the tensors of the start, whatever the scores say."""
    start = tiny_start()
    student = scattered(student_from_checkpoint(start, MaskSettings(attention_block=(4, 4))))
    originals = {
        name.replace(".parametrizations", "").removesuffix(".original"): parameter
        for name, parameter in student.bert.named_parameters()
    }
    for name, tensor in start.family.file_names(start.tensors).items():
        torch.testing.assert_close(originals[name], tensor, rtol=0, atol=0)


def test_blocks_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"blocks of 5x5 do not fit: layer 0 query is \[32, 32\]"):
        student_from_checkpoint(tiny_start(), MaskSettings(attention_block=(5, 5)))


def test_magnitude_ranks_by_mean_absolute_weight() -> None:
    """The method that has no scores, and crashes in the original system."""
    weight = torch.tensor([[1.0, -1.0, 0.1, 0.1], [3.0, -3.0, 0.2, 0.2]])
    torch.testing.assert_close(block_magnitudes(weight, (2, 2)), torch.tensor([[1.0, 0.1], [3.0, 0.2]]))
    student = student_from_checkpoint(tiny_start(), MaskSettings("magnitude", (8, 32), last_threshold=0.5))
    masks = student.masks
    assert masks is not None
    assert masks.scores("attention") == masks.scores("dense") == []
    masks.refresh_final()
    query = student.linear("layer.0.attention.query")
    original = dict(query.named_parameters())["parametrizations.weight.original"]
    heads = original.view(4, 8, 32).abs().mean((1, 2))
    alive = (query.weight != 0).view(4, -1).all(1)
    assert int(alive.sum()) == 2
    assert heads[alive].min() > heads[~alive].max()
