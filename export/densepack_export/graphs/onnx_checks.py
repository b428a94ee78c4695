"""What every exported graph must pass before anybody sees it.

    check_onnx(path, precision="fp16")       # raises ExportError that lists every fault

The checker of onnx itself cannot know what was promised: names and types of inputs and outputs, matrix products in
float16 with LayerNorm and softmax in float32, and no constant that overflows float16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from densepack_runtime.errors import ExportError
from densepack_runtime.sessions.session import OUTPUT_NAMES, Precision, inputs_among

AXES = ("batch", "sequence")
# Operators whose inputs and output decide what a matrix product costs.
MATRIX_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "Attention"})
# Operators that sum or exponentiate over many values: their rounding and overflow in float16 is what loses answers.
FLOAT32_ISLANDS = frozenset({"LayerNormalization", "Softmax"})
# float16 ends at 65504. A mask of -1e4 is enough (its exponential is 0), anything larger meets a sum that overflows.
LARGEST_FP16_CONSTANT = 1e4
# What shape inference reads (shapes, axes) has a few entries; weights are left out so that it needs no memory.
_SHAPE_DATA_BYTES = 1024


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """What a checked graph consists of. `operators` counts nodes by operator, most frequent first."""

    opset: int
    nodes: int
    operators: dict[str, int]
    parameters: int


def check_onnx(path: Path, *, precision: Precision) -> OnnxFacts:
    """Check a file against onnx and against what densepack promises about it.

    Raises ExportError: what onnx.checker or strict shape inference says, or all faults of names, types and constants.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(str(path))
        constants = dict(constants_of(proto))
        inferred = _infer_shapes(proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError) as error:
        raise ExportError(f"not a valid ONNX graph: {error}") from error
    model = ir.serde.deserialize_model(inferred)
    faults = [
        *_interface_faults(model),
        *_name_faults(model),
        *_type_faults(model, precision),
        *constant_faults(constants, precision),
    ]
    if faults:
        raise ExportError(f"the ONNX graph is not as promised ({len(faults)} faults): " + "; ".join(faults))
    return _facts(model)


def constants_of(proto: onnx.ModelProto) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Name and values of every initialiser and Constant node."""
    for tensor in proto.graph.initializer:
        yield tensor.name, onnx.numpy_helper.to_array(tensor)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], onnx.numpy_helper.to_array(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                yield node.output[0], np.asarray([attribute.f, *attribute.floats], dtype=np.float32)


def constant_faults(constants: dict[str, NDArray[np.generic]], precision: Precision) -> list[str]:
    """Constants that are not finite or, for float16, too large; one line each."""
    faults = []
    for name, values in constants.items():
        if not np.issubdtype(values.dtype, np.floating) or not values.size:
            continue
        if not np.isfinite(values).all():
            faults.append(f"the constant {name} holds inf or NaN")
        elif precision == "fp16" and (largest := float(np.abs(values).max())) > LARGEST_FP16_CONSTANT:
            faults.append(
                f"the constant {name} reaches {largest:.4g}, and float16 graphs allow {LARGEST_FP16_CONSTANT:.0e}"
            )
    return faults


def _infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Types and shapes of all values by strict inference; takes the large weights out of `proto`."""
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _SHAPE_DATA_BYTES:
            tensor.ClearField("raw_data")
    del proto.graph.value_info[:]  # what the file says about itself is what is to be checked
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def _interface_faults(model: ir.Model) -> Iterator[str]:
    inputs = inputs_among(str(value.name) for value in model.graph.inputs)
    for values, names, dtype in (
        (model.graph.inputs, inputs, ir.DataType.INT64),
        (model.graph.outputs, OUTPUT_NAMES, ir.DataType.FLOAT),
    ):
        found = tuple(value.name for value in values)
        if found != names:
            yield f"the graph has {', '.join(map(str, found))} where {', '.join(names)} are promised"
        for value in values:
            shape = "?" if value.shape is None else ", ".join(map(str, value.shape))
            if value.dtype != dtype or shape != ", ".join(AXES):
                yield f"{value.name} is {value.dtype} [{shape}], promised is {dtype} [{', '.join(AXES)}]"


def _name_faults(model: ir.Model) -> Iterator[str]:
    counts = Counter(node.name for node in model.graph)
    for name, count in counts.items():
        if count > 1 or not name:
            yield f"{count} nodes have the name {name!r}"


def _type_faults(model: ir.Model, precision: Precision) -> Iterator[str]:
    product = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.FLOAT
    for node in model.graph:
        if node.op_type in MATRIX_PRODUCTS:
            values = (*node.inputs, *node.outputs)
            wrong = {str(value.dtype) for value in values if value is not None and value.dtype != product}
            if wrong:
                yield f"the product {node.name} computes in {', '.join(sorted(wrong))}, promised is {product}"
        elif node.op_type in FLOAT32_ISLANDS:
            source = node.inputs[0]
            if source is None or source.dtype != ir.DataType.FLOAT:
                yield f"{node.name} computes in {source and source.dtype}, promised is FLOAT"


def _facts(model: ir.Model) -> OnnxFacts:
    operators = Counter(node.op_type for node in model.graph)
    return OnnxFacts(
        opset=model.opset_imports[""],
        nodes=sum(operators.values()),
        operators=dict(operators.most_common()),
        parameters=sum(
            int(np.prod(value.shape.numpy())) for value in model.graph.initializers.values() if value.shape is not None
        ),
    )
