"""Backward passes of the answer loss that measure a student and train nothing.

Where there are no answers, the spans are drawn from the student's own distributions. The gradients of drawn spans have
the Fisher information as their covariance: the curvature of the divergence from what the student says now. The loss of
its likeliest span would see only where it is unsure, and that of all spans, weighed by their probability, has no
gradient at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from densepack_models.pruning.losses import SpanLogits, answer_loss, without_padding
from densepack_models.pruning.student import Student

# The first and the last token of every window's span, int64 [B] each, for the loss.
Spans = Callable[[SpanLogits, Mapping[str, Tensor]], tuple[Tensor, Tensor]]


def answers(_: SpanLogits, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The spans that the data has."""
    return batch["start"], batch["end"]


class DrawnSpans:
    """Spans drawn from the student's own distributions; those of a window are the same in whichever batch it is."""

    def __init__(self, windows: int, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._chances = torch.rand(windows, 2, dtype=torch.float64, generator=generator)

    def __call__(self, logits: SpanLogits, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        chances = self._chances[batch["window"].cpu()].to(logits.start.device)
        real = without_padding(logits, batch["attention_mask"])
        return _drawn(real.start, chances[:, 0]), _drawn(real.end, chances[:, 1])


def _drawn(logits: Tensor, chances: Tensor) -> Tensor:
    """Positions at which the cumulated probabilities reach `chances`, 0 to 1, [B]."""
    reached = logits.detach().double().softmax(-1).cumsum(-1)  # [B, S]
    return torch.searchsorted(reached, chances[:, None] * reached[:, -1:])[:, 0]


def backward_passes(
    student: Student,
    batches: Iterable[Mapping[str, Tensor]],
    prepare: Callable[[Mapping[str, Tensor]], object],
    *,
    spans: Spans = answers,
    autocast: torch.dtype | None = None,
) -> Iterator[int]:
    """Yield the number of windows after each batch's pass; the loss is summed over them, dropout is off.

    `prepare` gets every batch before its pass, on the student's device. No parameter has a gradient: hooks and gates of
    the caller bring along what wants one. The student is left as it was.
    """
    device = next(student.parameters()).device
    was_training = student.training
    student.eval()
    with _without_gradients(student):
        for batch in batches:
            here = {name: tensor.to(device) for name, tensor in batch.items()}
            prepare(here)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                start, end = student(here["input_ids"], here["attention_mask"], here["token_type_ids"])
            logits = SpanLogits(start, end)
            loss = answer_loss(logits, *spans(logits, here), here["attention_mask"]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            yield len(here["start"])
    student.train(was_training)


@contextmanager
def _without_gradients(student: Student) -> Iterator[None]:
    """Saves a third of the work."""
    wanting = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
