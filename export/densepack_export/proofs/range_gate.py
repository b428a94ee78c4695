"""The FP16 range gate: how large does every float16 tensor of the typed graph become on real windows?

    report = measure_fp16_ranges(packed, batches, onnx_path=Path("model.fp16.onnx"))
    report.check()                           # ParityError that names the layer, the tensor, the value and the limit

ONNX Runtime on a CPU computes a float16 graph in float32 and so never shows an overflow; a GPU does, as inf and then as
NaN logits. The gate therefore runs the shipped graph itself with its types widened: same nodes, same names, the
parameters in float32 as they were before rounding, and the extremes of every float16 tensor as further outputs. What
the graph holds in float16 is what is measured, by construction.

Padded positions count as well: a GPU computes them too, and inf in a padded value times its attention weight 0 is NaN
in every real row. The sums inside a matrix product are not seen, only its result: the limit leaves them a factor of 2.

Float16 has two ends. Weights below 6.1e-5 are subnormal there and lose bits, so a matrix that lies mostly below closes
the gate too. (A value projection times 2^12 with its output projection times 2^-12 goes towards both.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from densepack_export.graphs.onnx_graph import graph_from_module
from densepack_export.graphs.onnx_names import CAST, TRANSPOSED
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import ExportError, InputError, ParityError, require
from densepack_runtime.sessions.fp16_range import SMALLEST_NORMAL, RangeReport
from densepack_runtime.sessions.session import OUTPUT_NAMES, Batch

# Operators whose output holds only values of their first input, which has an entry of its own.
MOVES = frozenset({"Reshape", "Transpose", "Slice", "Gather", "Unsqueeze", "Squeeze", "Identity", "Concat", "Split"})
_EXTREMES = ("ReduceMax", "ReduceMin")


def measure_fp16_ranges(
    packed: PackedBertForQuestionAnswering, batches: Iterable[Batch], *, onnx_path: Path | None = None
) -> RangeReport:
    """Run all batches through the float16 graph in float32 and keep the largest magnitude of each float16 tensor.

    `onnx_path` is the float16 file that `export_onnx` wrote from this module; without it the graph is traced again.
    Raises InputError when there is no batch, ExportError when the graph is not a float16 graph of this module, and
    ParityError when even float32 does not stay finite.
    """
    graph = graph_from_module(packed, "fp16") if onnx_path is None else ir.load(onnx_path)
    parameters = {name: tensor.detach().numpy() for name, tensor in packed.state_dict().items()}
    weights = {name: parameters[name] for name in _widen_parameters(graph, parameters)}
    measured = [value for value in _half_values(graph) if value.producer().op_type not in MOVES]  # type: ignore[union-attr]
    if not measured:
        raise ExportError("the graph has no float16 tensor: the range gate needs the graph that was exported as fp16")
    names = [str(value.name) for value in measured]
    _widen_values(graph)
    _add_extremes(graph, measured)
    largest, windows = _run(graph, len(names), batches)
    magnitudes = {name: float(np.abs(weight).max()) for name, weight in weights.items()}
    return RangeReport(
        magnitudes={**magnitudes, **dict(zip(names, map(float, largest), strict=True))},
        subnormal={name: subnormal_share(weight) for name, weight in weights.items() if weight.ndim > 1},
        windows=windows,
    )


def subnormal_share(weight: NDArray[np.float32]) -> float:
    """Share, 0 to 1, of the values other than zero that are below float16's smallest normal number."""
    magnitudes = np.abs(weight)
    nonzero = int(np.count_nonzero(magnitudes))
    return int(np.count_nonzero((magnitudes > 0) & (magnitudes < SMALLEST_NORMAL))) / max(1, nonzero)


def _half_values(graph: ir.Model) -> list[ir.Value]:
    """Every float16 tensor that a node computes, in order."""
    values = [value for node in graph.graph for value in node.outputs]
    untyped = [str(value.name) for value in values if value.dtype is None]
    if untyped:
        raise ExportError(f"the graph does not say what type these tensors have: {', '.join(untyped)}")
    return [value for value in values if value.dtype == ir.DataType.FLOAT16]


def _widen_parameters(graph: ir.Model, parameters: Mapping[str, NDArray[np.float32]]) -> list[str]:
    """Put the float32 parameters in the place of those rounded to float16; their names in the module, in order."""
    origins = {}
    for name, value in graph.graph.initializers.items():
        if value.dtype == ir.DataType.FLOAT16 or name.endswith(CAST):
            origins[name.removesuffix(CAST).removesuffix(TRANSPOSED)] = value
    unknown = sorted(origins.keys() - parameters.keys())
    if unknown:
        raise ExportError(f"the graph holds {', '.join(unknown)}, no parameter of this module: export it again")
    for origin, value in origins.items():
        array = parameters[origin].T if TRANSPOSED in str(value.name) else parameters[origin]
        if value.shape is None or tuple(value.shape) != array.shape:
            raise ExportError(
                f"{value.name} is {value.shape} in the graph and {array.shape} in the module: export it again"
            )
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
        value.dtype = ir.DataType.FLOAT
    return [name for name in parameters if name in origins]


def _widen_values(graph: ir.Model) -> None:
    """Make float32 of every float16 tensor and of every cast to it."""
    for node in graph.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT16:
                value.dtype = ir.DataType.FLOAT


def _add_extremes(graph: ir.Model, values: Sequence[ir.Value]) -> None:
    """Two scalar outputs per value, its maximum and minimum, computed right behind it so that it can be freed."""
    for index, value in enumerate(values):
        for operator in _EXTREMES:
            name = f"{operator}_{index}"
            node = ir.node(operator, [value], attributes={"keepdims": 0}, name=name)
            result = node.outputs[0]
            result.name, result.dtype, result.shape = name, ir.DataType.FLOAT, ir.Shape([])
            graph.graph.insert_after(value.producer(), node)  # type: ignore[arg-type]
            graph.graph.outputs.append(result)


def _run(graph: ir.Model, count: int, batches: Iterable[Batch]) -> tuple[NDArray[np.float32], int]:
    """Largest magnitude of each value over all batches, float32 [count], and the number of rows."""
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # the order of the graph: extremes at once, not last
    content = ir.serde.serialize_model(graph).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    del content
    inputs = [tensor.name for tensor in session.get_inputs()]
    names = [*OUTPUT_NAMES, *(f"{operator}_{index}" for index in range(count) for operator in _EXTREMES)]
    largest, windows = np.zeros(count, dtype=np.float32), 0
    for batch in batches:
        start, end, *extremes = session.run(names, batch.arrays(inputs))
        if not (np.isfinite(start).all() and np.isfinite(end).all()):
            raise ParityError("logits are not finite even in float32: the weights of this checkpoint are damaged")
        magnitudes = np.abs(np.asarray(extremes, dtype=np.float32)).reshape(count, len(_EXTREMES)).max(axis=1)
        largest = np.maximum(largest, magnitudes)
        windows += batch.shape[0]
    if not windows:
        raise InputError("the FP16 range gate got no windows: pass at least one batch")
    return largest, windows
