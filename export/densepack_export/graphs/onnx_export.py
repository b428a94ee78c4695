"""The ONNX file of a packed module, checked before it appears.

    report = export_onnx(packed, Path("model.fp16.onnx"), precision="fp16")
    report.bytes, report.operators, report.max_abs_logit

One file with the weights inside, dynamic axes batch and sequence, the same bytes for the same module. It is written to
a temporary neighbour, checked by onnx, by `onnx_checks` and by running it in ONNX Runtime against the PyTorch module,
and renamed last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from densepack_export.graphs.onnx_checks import check_onnx
from densepack_export.graphs.onnx_graph import graph_from_module
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import ExportError
from densepack_runtime.host.files import new_file, sha256_of
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import INPUT_NAMES, Batch, Precision, Session
from densepack_runtime.structure import Structure

# A protobuf message ends at 2 GiB; names and shapes need little.
LARGEST_FILE_BYTES = 2**31 - 2**20
# Largest |Δlogit| that an export may show, per unit of the largest logit (at least 1). float32: two orders of summation
# of the same products, seen up to 3e-6 on trained and on random models. float16 in ONNX Runtime's CPU kernels, which
# compute in float32: the weights and some tensors are rounded to 11 bits, seen up to 2e-3.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}


@dataclass(frozen=True, slots=True)
class ShapeDifference:
    """Largest |Δlogit| between ONNX Runtime and PyTorch over the real positions of one batch, and the largest logit."""

    batch: int
    length: int
    max_abs: float
    largest_logit: float

    @property
    def relative(self) -> float:
        """The difference per unit of the largest logit, which counts as 1 when it is smaller."""
        return self.max_abs / max(1.0, self.largest_logit)


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """What was written. `operators` counts nodes by operator; `differences` are those to the float32 module."""

    path: Path
    precision: Precision
    opset: int
    bytes: int
    sha256: str
    nodes: int
    parameters: int
    operators: dict[str, int]
    differences: tuple[ShapeDifference, ...]

    @property
    def max_abs_logit(self) -> float:
        """Largest |Δlogit| to the float32 PyTorch module over all shapes tried."""
        return max(difference.max_abs for difference in self.differences)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "max_abs_logit": self.max_abs_logit}

    def rows(self) -> list[tuple[str, str]]:
        """What to show to a person: (what, value)."""
        shapes = ", ".join(f"{entry.batch}x{entry.length}" for entry in self.differences)
        operators = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        return [
            ("precision", self.precision),
            ("opset", str(self.opset)),
            ("size", f"{self.bytes / 2**20:.1f} MiB"),
            ("parameters", f"{self.parameters:,}"),
            ("nodes", f"{self.nodes}: {operators}"),
            ("max |Δlogit| to PyTorch", f"{self.max_abs_logit:.2g} ({shapes})"),
        ]


def export_onnx(packed: PackedBertForQuestionAnswering, path: Path, *, precision: Precision = "fp32") -> OnnxExport:
    """Write and check one ONNX file; an existing one is replaced when everything has passed.

    Raises ExportError when the graph cannot be made, is too large for one file, is not as promised, or does not
    compute what the module computes; BackendError when ONNX Runtime refuses it.
    """
    path = Path(path)
    graph = graph_from_module(packed, precision)
    _check_size(graph, path)
    with new_file(path) as temporary:
        ir.save(graph, temporary)
        facts = check_onnx(temporary, precision=precision)
        differences = compare_onnx_with_module(temporary, packed, export_shapes(packed.structure))
        _check_differences(differences, path, precision)
        size, digest = temporary.stat().st_size, sha256_of(temporary)
    return OnnxExport(
        path=path,
        precision=precision,
        opset=facts.opset,
        bytes=size,
        sha256=digest,
        nodes=facts.nodes,
        parameters=packed.structure.parameters,
        operators=facts.operators,
        differences=differences,
    )


def export_shapes(structure: Structure) -> list[tuple[int, int]]:
    """(batch, length) to run after every export: the smallest, odd ones, more rows than tokens, the longest."""
    longest = structure.longest_input
    shapes = [(1, 1), (3, 17), (7, 3), (1, 128), (2, 512)]
    return list(dict.fromkeys((batch, min(length, longest)) for batch, length in shapes))


def random_batch(structure: Structure, batch: int, length: int, *, seed: int = 0) -> Batch:
    """Random tokens with random padding: the first row is full, the last of several has a third of the tokens."""
    random = np.random.default_rng([seed, batch, length])
    real = random.integers(1, length + 1, size=batch)
    real[-1] = -(-length // 3)
    real[0] = length
    mask = (np.arange(length)[None, :] < real[:, None]).astype(np.int64)
    return Batch(
        input_ids=random.integers(0, structure.vocab_size, size=(batch, length)) * mask,
        attention_mask=mask,
        token_type_ids=random.integers(0, max(1, structure.type_vocab_size), size=(batch, length)) * mask,
    )


def compare_onnx_with_module(
    path: Path, module: PackedBertForQuestionAnswering, shapes: Iterable[tuple[int, int]]
) -> tuple[ShapeDifference, ...]:
    """Run a file in ONNX Runtime (CPU) and the module in PyTorch on random padded batches of these (batch, length).

    Raises BackendError when ONNX Runtime cannot load or run the file.
    """
    with OnnxRuntimeSession(path, SessionOptions(threads=torch.get_num_threads())) as session:
        return tuple(_difference(session, module, random_batch(module.structure, *shape)) for shape in shapes)


def _difference(session: Session, module: nn.Module, batch: Batch) -> ShapeDifference:
    found = session.run(batch)
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(batch.arrays()[name]) for name in INPUT_NAMES))
    rows, length = batch.shape
    real = batch.attention_mask.astype(bool)
    pairs = [(there[real], here.numpy()[real]) for there, here in zip((found.start, found.end), expected, strict=True)]
    return ShapeDifference(
        batch=rows,
        length=length,
        max_abs=max(float(np.abs(there - here).max()) for there, here in pairs),
        largest_logit=max(float(np.abs(here).max()) for _, here in pairs),
    )


def _check_size(graph: ir.Model, path: Path) -> None:
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    if size > LARGEST_FILE_BYTES:
        raise ExportError(
            f"{path.name} would have {size / 2**30:.2f} GiB of weights, and one ONNX file holds 2 GiB: "
            "export with precision fp16, or prune more"
        )


def _check_differences(differences: Sequence[ShapeDifference], path: Path, precision: Precision) -> None:
    worst = max(differences, key=lambda entry: entry.relative if np.isfinite(entry.relative) else np.inf)
    if not worst.relative <= TOLERANCE[precision]:  # written so that NaN fails
        raise ExportError(
            f"{path.name} does not compute what the module computes: max |Δlogit| {worst.max_abs:.3g} at "
            f"{worst.batch}x{worst.length} with logits up to {worst.largest_logit:.3g}, allowed is "
            f"{TOLERANCE[precision]:.0e} per unit: report this graph, or try another torch and onnxscript version"
        )
