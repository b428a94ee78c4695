"""What is measured: against a plain loop over single windows, without padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densepack_models.pruning.backward import DrawnSpans, Spans, answers
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.losses import SpanLogits, answer_loss
from densepack_models.pruning.second_order.statistics import ProjectionStatistics, measure, output_projections
from densepack_models.pruning.student import Student, student_from_checkpoint
from densepack_models.pruning.training_data import TrainingWindows, make_windows
from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.windows import Windower
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_start, tiny_tokenizer

# The products of a batch are float32: a relative 1e-6 or so of the largest entry.
FLOAT32 = 2e-6
NAME = "layer.0.ffn.output"
DRAWN = 10_000


def windows_of(folder: Path) -> TrainingWindows:
    windower = Windower(tiny_tokenizer(), max_length=LONGEST, doc_stride=8)
    return make_windows(tiny_data(folder, 24).questions, windower)


def measured(
    student: Student, windows: TrainingWindows, token_budget: int, spans: Spans = answers
) -> dict[str, ProjectionStatistics]:
    batches = TrainingBatches(windows, token_budget=token_budget, seed=0)
    return measure(student, (batches[place] for place in range(len(batches))), spans=spans)


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=FLOAT32 * float(expected.abs().max()))


def one_by_one(student: Student, windows: TrainingWindows) -> tuple[Tensor, Tensor]:
    """Inputs of all tokens, and half the sum of g gᵀ a window, in float64."""
    student = student.double().eval()
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def observe(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        inputs.append(given[0][0])
        outputs.append(made)

    student.linear(NAME).register_forward_hook(observe)
    curvature = torch.zeros(student.structure.hidden_size, student.structure.hidden_size, dtype=torch.float64)
    for window in range(len(windows)):
        first, last = windows.offsets[window : window + 2]
        ids = torch.from_numpy(windows.token_ids[first:last]).long()[None]
        types = (torch.arange(ids.shape[1]) >= int(windows.context_start[window])).long()[None]
        everything = torch.ones_like(ids)
        start, end = (torch.tensor([int(place[window])]) for place in (windows.start, windows.end))
        loss = answer_loss(SpanLogits(*student(ids, everything, types)), start, end, everything)
        (gradient,) = torch.autograd.grad(loss.sum(), outputs[-1])
        curvature += gradient[0].T.double() @ gradient[0].double() / 2
    return torch.cat(inputs).detach(), curvature / len(windows)


def test_padding_does_not_count(tmp_path: Path) -> None:
    student = student_from_checkpoint(tiny_start())
    windows = windows_of(tmp_path)
    assert len({*windows.lengths.tolist()}) > 1
    together = measured(student, windows, token_budget=4096)
    assert list(together) == list(output_projections(student))
    inputs, curvature = one_by_one(student, windows)
    assert_close(together[NAME].mean, inputs.mean(0))
    assert_close(together[NAME].covariance, torch.cov(inputs.T, correction=0))
    assert_close(together[NAME].curvature, curvature)


def test_drawn_spans_follow_the_distribution_and_leave_padding_out() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5, 9.0]]).expand(DRAWN, -1)
    mask = torch.tensor([[1, 1, 1, 0]]).expand(DRAWN, -1)
    batch = {"attention_mask": mask, "window": torch.arange(DRAWN)}
    spans = DrawnSpans(DRAWN, seed=0)(SpanLogits(logits, -logits), batch)
    for drawn, given in zip(spans, (logits[0, :3], -logits[0, :3]), strict=True):
        shares = drawn.bincount(minlength=4) / DRAWN
        assert shares[3] == 0
        torch.testing.assert_close(shares[:3], given.softmax(0), rtol=0, atol=4 * 0.5 / DRAWN**0.5)


def test_drawn_spans_are_those_of_the_window(tmp_path: Path) -> None:
    """The same whatever else is in the batch: sums differ by the rounding of float32 products alone."""
    student = student_from_checkpoint(tiny_start(scale=8))
    windows = windows_of(tmp_path)
    spans = DrawnSpans(len(windows), seed=0)
    small, large = (measured(student, windows, budget, spans)[NAME].curvature for budget in (128, 4096))
    assert_close(small, large)


def test_the_student_is_left_as_it_was(tmp_path: Path) -> None:
    student = student_from_checkpoint(tiny_start()).train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    measured(student, windows_of(tmp_path), token_budget=256)
    assert student.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in student.parameters())
    assert not student.linear(NAME)._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_without_a_window_nothing_is_measured() -> None:
    with pytest.raises(InputError, match="no window to measure"):
        measure(student_from_checkpoint(tiny_start()), [])
