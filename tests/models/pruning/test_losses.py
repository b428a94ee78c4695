"""The parts of the loss against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from densepack_models.pruning.losses import SpanLogits, answer_loss, distillation_loss, score_regulariser
from densepack_models.pruning.masked import MaskSettings
from densepack_models.pruning.options import PRESETS
from densepack_models.pruning.student import student_from_checkpoint
from tests.models.pruning.tiny_task import tiny_start

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def logits(seed: int) -> SpanLogits:
    generator = torch.Generator().manual_seed(seed)
    return SpanLogits(torch.randn(2, 4, generator=generator) * 3, torch.randn(2, 4, generator=generator) * 3)


def test_the_regulariser_of_the_published_run_starts_at_0_3125() -> None:
    student = student_from_checkpoint(tiny_start(), MaskSettings(attention_block=(8, 8)))
    assert student.masks is not None
    published = PRESETS["hybrid"]
    value = score_regulariser(
        student.masks.scores("attention"),
        student.masks.scores("dense"),
        attention_coefficient=published.attention_coefficient,
        dense_coefficient=published.dense_coefficient,
        method=published.method,
    )
    assert value.item() == 0.3125


def test_the_regulariser_is_a_mean_over_grids_of_means() -> None:
    attention = [torch.zeros(2, 2), torch.full((4, 1), 1.0)]
    value = score_regulariser(attention, [], attention_coefficient=1, dense_coefficient=9, method="sigmoid")
    assert float(value) == pytest.approx((0.5 + 1 / (1 + math.exp(-1))) / 4)
    shifted = score_regulariser([torch.zeros(3)], [], attention_coefficient=2, dense_coefficient=0, method="l0")
    assert float(shifted) == pytest.approx(1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1))))
    assert float(score_regulariser([], [], attention_coefficient=1, dense_coefficient=1, method="sigmoid")) == 0


def test_distillation_row_by_row() -> None:
    """KL(softmax(t/2) ‖ softmax(s/2)) · 4 over the tokens that are there, mean over rows, start and end."""
    student, teacher = logits(0), logits(1)
    parts = []
    for ours, theirs in zip(student.pairs(), teacher.pairs(), strict=True):
        for row, length in enumerate(MASK.sum(1).tolist()):
            p = torch.softmax(theirs[row, :length] / 2, -1)
            q = torch.softmax(ours[row, :length] / 2, -1)
            parts.append(float((p * (p / q).log()).sum()) * 4)
    assert float(distillation_loss(student, teacher, MASK)) == pytest.approx(sum(parts) / len(parts), rel=1e-5)
    assert float(distillation_loss(teacher, teacher, MASK)) == pytest.approx(0, abs=1e-6)


def test_answers_row_by_row() -> None:
    student, start, end = logits(0), torch.tensor([3, 0]), torch.tensor([3, 1])
    found = answer_loss(student, start, end, MASK)
    for row, length in enumerate(MASK.sum(1).tolist()):
        expected = -sum(
            float(torch.log_softmax(part[row, :length], -1)[place[row]])
            for part, place in zip(student.pairs(), (start, end), strict=True)
        )
        assert float(found[row]) == pytest.approx(expected / 2, rel=1e-5)


def test_padding_has_no_part_in_any_loss() -> None:
    """Neither its value nor a gradient."""
    teacher, start, end = logits(1), torch.tensor([3, 0]), torch.tensor([3, 1])
    results = []
    for garbage in (0.0, 50.0):
        parts = [torch.where(MASK > 0, part, garbage).requires_grad_() for part in logits(0).pairs()]
        student = SpanLogits(*parts)
        loss = distillation_loss(student, teacher, MASK) + answer_loss(student, start, end, MASK).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        results.append(loss.item())
        for part in parts:
            assert part.grad is not None
            assert (part.grad[MASK == 0] == 0).all()
            assert (part.grad[MASK > 0] != 0).any()
    assert results[0] == results[1]
