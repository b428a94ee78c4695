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

# Under which name a measurement keeps how many batches, windows and tokens its sums are of.
COUNTS = "counts"


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
    measurement = Measurement(student)
    for _ in measurement.passes(student, batches, spans=spans, autocast=autocast):
        pass
    return measurement.statistics()


class Measurement:
    """Sums over the batches so far. `state_dict` has them as they are, so that one that goes on from there ends at the
    same bits.
    """

    def __init__(self, student: Student) -> None:
        self.batches = self.windows = self.tokens = 0
        self._sums = {name: _Sums(student.linear(name)) for name in output_projections(student)}

    def passes(
        self,
        student: Student,
        batches: Iterable[Mapping[str, Tensor]],
        *,
        spans: Spans = answers,
        autocast: torch.dtype | None = None,
    ) -> Iterator[None]:
        """Add batches, and yield after each."""
        with _Observer(student, self._sums) as observer:
            for windows in backward_passes(student, batches, observer.look_at, spans=spans, autocast=autocast):
                self.batches, self.windows = self.batches + 1, self.windows + windows
                self.tokens += observer.tokens
                yield

    def statistics(self) -> dict[str, ProjectionStatistics]:
        """Raises InputError without a window, or when a sum is not finite."""
        if not self.windows:
            raise InputError("there is no window to measure a model with")
        return {name: sums.statistics(name, self.tokens, self.windows) for name, sums in self._sums.items()}

    def state_dict(self) -> dict[str, Tensor]:
        counts = {COUNTS: torch.tensor([self.batches, self.windows, self.tokens])}
        return counts | {
            f"{name}.{part}": sum_ for name, sums in self._sums.items() for part, sum_ in vars(sums).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.batches, self.windows, self.tokens = state[COUNTS].tolist()
        for name, sums in self._sums.items():
            for part, sum_ in vars(sums).items():
                sum_.copy_(state[f"{name}.{part}"])


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
        self.inputs = torch.zeros(inputs, dtype=torch.float64, device=device)
        self.products = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.gradients = torch.zeros(outputs, outputs, dtype=torch.float64, device=device)

    def add_inputs(self, inputs: Tensor) -> None:
        """Inputs of real tokens, [tokens, inputs]."""
        self.inputs += inputs.double().sum(0)
        self.products += _gram(inputs)

    def add_gradients(self, gradients: Tensor) -> None:
        """Gradients by the output, [tokens, outputs]."""
        self.gradients += _gram(gradients)

    def statistics(self, name: str, tokens: int, windows: int) -> ProjectionStatistics:
        mean = self.inputs / tokens
        covariance = self.products / tokens - torch.outer(mean, mean)
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

    def __init__(self, student: Student, sums: Mapping[str, _Sums]) -> None:
        self.tokens = 0  # of the batch
        self._student, self._sums = student, sums
        self._real = torch.zeros(0, 0, dtype=torch.bool)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Observer:
        for name, sums in self._sums.items():
            self._watch(self._student.linear(name), sums)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def look_at(self, batch: Mapping[str, Tensor]) -> None:
        """Of which batch the next pass is."""
        self._real = batch["attention_mask"].bool()
        self.tokens = int(self._real.sum())

    def _watch(self, projection: nn.Linear, sums: _Sums) -> None:
        def observe(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sums.add_inputs(inputs[0].detach()[self._real])
            if not output.requires_grad:  # nothing before it wants a gradient
                output.requires_grad_()
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: sums.add_gradients(gradient[self._real])
            )

        self._handles.append(projection.register_forward_hook(observe))
