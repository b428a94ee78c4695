"""Backward passes of the answer loss that measure a student and train nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from densepack_models.pruning.losses import SpanLogits, answer_loss
from densepack_models.pruning.student import Student


def backward_passes(
    student: Student,
    batches: Iterable[Mapping[str, Tensor]],
    prepare: Callable[[Mapping[str, Tensor]], object],
    *,
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
            loss = answer_loss(SpanLogits(start, end), here["start"], here["end"], here["attention_mask"]).sum()
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
