"""What a second-order cut has to know of every output projection, from a few hundred questions.

statistics = measure(student, batches)
statistics["layer.3.ffn.output"].covariance                    # float64 [inputs, inputs]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from densepack_models.pruning.backward import Spans, answers, backward_passes
from densepack_models.pruning.student import Student
from densepack_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class ProjectionStatistics:
    """Of a projection y = W x + b, over the real tokens of the calibration windows, float64 on the student's device.

    `mean` [inputs] and `covariance` [inputs, inputs] of x. `curvature` [outputs, outputs] is half the sum of g gᵀ a
    window, where g is the gradient of the window's loss by y: so tr(curvature ΔW covariance ΔWᵀ) is by how much the
    loss of a window grows, to second order, with tokens taken as independent, when W changes by ΔW and b by -ΔW mean.
    """

    mean: Tensor
    covariance: Tensor
    curvature: Tensor


def measure(
    student: Student,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    spans: Spans = answers,
    autocast: torch.dtype | None = None,
) -> dict[str, ProjectionStatistics]:
    """Statistics of all output projections that still have inputs, by name. The student is left as it was.

    Raises InputError without a batch, or when a sum is not finite.
    """
    with _Observer(student) as observer:
        windows = sum(backward_passes(student, batches, observer.look_at, spans=spans, autocast=autocast))
    if not windows:
        raise InputError("there is no window to measure a model with")
    return {name: sums.statistics(name, windows) for name, sums in observer.sums.items()}


def output_projections(student: Student) -> Iterator[str]:
    """Names of the projections behind attention and FFN that still have inputs, first layer first."""
    for index, layer in enumerate(student.structure.layers):
        if layer.heads:
            yield f"layer.{index}.attention.output"
        if layer.ffn_width:
            yield f"layer.{index}.ffn.output"


class _Sums:
    """Sums over tokens. Products of a batch are float32, which doubles the speed; their sums are float64."""

    def __init__(self, projection: nn.Linear) -> None:
        inputs, outputs, device = projection.in_features, projection.out_features, projection.weight.device
        self.tokens = 0
        self.inputs = torch.zeros(inputs, dtype=torch.float64, device=device)
        self.products = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.gradients = torch.zeros(outputs, outputs, dtype=torch.float64, device=device)

    def add_inputs(self, inputs: Tensor) -> None:
        """Inputs of real tokens, [tokens, inputs]."""
        self.tokens += len(inputs)
        self.inputs += inputs.double().sum(0)
        self.products += _gram(inputs)

    def add_gradients(self, gradients: Tensor) -> None:
        """Gradients by the output, [tokens, outputs]."""
        self.gradients += _gram(gradients)

    def statistics(self, name: str, windows: int) -> ProjectionStatistics:
        mean = self.inputs / self.tokens
        covariance = self.products / self.tokens - torch.outer(mean, mean)
        curvature = self.gradients / (2 * windows)
        if not (torch.isfinite(covariance).all() and torch.isfinite(curvature).all()):
            raise InputError(f"the statistics of {name} are not finite: measure without --bf16")
        return ProjectionStatistics(mean, covariance, curvature)


def _gram(rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.float()
        return rows.T @ rows


class _Observer:
    """Adds up what goes into the output projections and the gradients by what comes out, of real tokens."""

    def __init__(self, student: Student) -> None:
        self._projections = {name: student.linear(name) for name in output_projections(student)}
        self.sums = {name: _Sums(projection) for name, projection in self._projections.items()}
        self._real = torch.zeros(0, 0, dtype=torch.bool)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Observer:
        for name, projection in self._projections.items():
            self._watch(projection, self.sums[name])
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def look_at(self, batch: Mapping[str, Tensor]) -> None:
        """Of which batch the next pass is."""
        self._real = batch["attention_mask"].bool()

    def _watch(self, projection: nn.Linear, sums: _Sums) -> None:
        def observe(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sums.add_inputs(inputs[0].detach()[self._real])
            if not output.requires_grad:  # nothing before it wants a gradient
                output.requires_grad_()
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: sums.add_gradients(gradient[self._real])
            )

        self._handles.append(projection.register_forward_hook(observe))
