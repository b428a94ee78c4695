"""From the PyTorch module to a compact ONNX graph in memory.

    graph = graph_from_module(packed, "fp16")        # onnx_ir.Model, typed, named, without a trace of this machine

The graph is what `torch.onnx`'s dynamo exporter makes of the module, passed through the public passes of onnxscript and
onnx-ir. The types are those of the module: `typed_fp16` decides what is float16, nothing is cast afterwards.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter

from densepack_export.graphs.onnx_names import name_folded_parameters, name_graph
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import ExportError
from densepack_runtime.host.versions import package_versions
from densepack_runtime.sessions.session import OUTPUT_NAMES, Precision, graph_inputs

# 20 is the first opset with Gelu as one operator (LayerNormalization came with 17).
OPSET = 20
# Traced with more than one row and token: torch.export takes sizes 0 and 1 for constants.
_EXAMPLE_SHAPE = (2, 8)


def graph_from_module(packed: PackedBertForQuestionAnswering, precision: Precision) -> ir.Model:
    """The module as an ONNX graph: int64 [batch, sequence] in, float32 [batch, sequence] out, opset 20.

    Token types are an input where the model is fed with them. Raises ExportError when the module is not in float32 or
    the exporter fails.
    """
    dtype = packed.qa_outputs.weight.dtype
    if dtype != torch.float32:
        raise ExportError(f"a float32 module is exported, this one is in {dtype}: pack it with dtype=torch.float32")
    model = _trace(packed.typed_fp16() if precision == "fp16" else packed)
    _simplify(model)
    name_graph(model)
    _forget_origin(model)
    return model


def _trace(module: PackedBertForQuestionAnswering) -> ir.Model:
    batch = torch.export.Dim("batch")
    sequence = torch.export.Dim("sequence", max=module.structure.longest_input)
    inputs = graph_inputs(module.structure.token_types)
    # A tensor for each, not one: the exporter takes the same object for the same input.
    example = tuple(torch.zeros(_EXAMPLE_SHAPE, dtype=torch.int64) for _ in inputs)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(OUTPUT_NAMES),
                dynamic_shapes=({0: batch, 1: sequence},) * len(inputs),
                optimize=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch.onnx could not export the module: {error}") from error
    if program is None:
        raise ExportError("torch.onnx returned no graph")
    model: ir.Model = program.model
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about its own insides; the graph that it makes is checked afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _simplify(model: ir.Model) -> None:
    """Fold what is constant and leave one node per operation; every parameter stays an initialiser of its own."""
    name_folded_parameters(model)
    ConstantReshapePass()(model)
    for _ in range(2):  # folding makes room for rewriting and the other way round
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.rewrite(model)
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.ShapeInferencePass(),
    )(model)


class ConstantReshapePass(ir.passes.InPlacePass):
    """Give every Reshape a constant target shape, with 0 ("as in the input") for the dynamic axes.

    The exporter assembles the shape at run time from Shape and Concat although only the last axes change.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            target = _target_shape(node) if node.op_type == "Reshape" else None
            if target is None:
                continue
            name = f"{node.name}_shape"
            shape = ir.Value(name=name, const_value=ir.tensor(target, dtype=ir.DataType.INT64, name=name))
            model.graph.register_initializer(shape)
            node.replace_input_with(1, shape)
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _target_shape(node: ir.Node) -> list[int] | None:
    """The shape to reshape to, or None where a dynamic axis of the output is not the same axis of the input."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or not result.shape.rank():
        return None
    target: list[int] = []
    for axis, size in enumerate(result.shape):
        if isinstance(size, int):
            target.append(size)
        elif axis < source.shape.rank() and source.shape[axis] == size:
            target.append(0)
        else:
            return None
    return target


def _forget_origin(model: ir.Model) -> None:
    """Remove stack traces, paths and the exporter's notes; sign with densepack's name."""
    common.ClearMetadataAndDocStringPass()(model)
    holders: list[Any] = [model, model.graph, *model.graph.inputs, *model.graph.initializers.values()]
    holders += [value for node in model.graph for value in node.outputs]
    for holder in holders:
        holder.metadata_props.clear()
        holder.doc_string = None
    model.graph.name = "densepack"
    model.producer_name = "densepack"
    model.producer_version = package_versions().get("densepack", "")
