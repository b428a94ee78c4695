"""The graph that a TensorRT plan is built from: each attention as one ONNX `Attention`, which is fused or refused.

    graph = with_fused_attention(ir.load("model.fp16.onnx"))       # opset 23

Written out, attention is fused only where TensorRT recognises the pattern, and a plan that lost it is slower without a
word. TensorRT turns `Attention` into an IAttention layer, which is one kernel or an error. ONNX Runtime and OpenVINO
keep the written-out form: their CPU kernels gain nothing. Float32 graphs keep it too, as TensorRT fuses no float32
attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from densepack_runtime.errors import ExportError

# The first opset with Attention.
OPSET = 23
_MASK = "/attention_mask"


def fused_attention_bytes(path: Path) -> bytes:
    """The file's graph with fused attention, serialised. Raises ExportError for a file or graph that cannot be used."""
    try:
        model = ir.load(path)
    except DecodeError as error:
        raise ExportError(f"{path.name} is not an ONNX graph ({error}): export it again") from error
    proto = ir.serde.serialize_model(with_fused_attention(model))
    return bytes(proto.SerializeToString())


def with_fused_attention(model: ir.Model) -> ir.Model:
    """Replace every written-out attention of an exported graph, in place; returns the same model.

    The mask stays the one that is added, [B, 1, 1, S] with -1e4 at padding, in the type of the products: a boolean one
    fails in TensorRT for RTX 1.7.1 for some profiles (a batch of at most 8). Raises ExportError when an attention is
    not as `export_onnx` writes it.
    """
    graph = model.graph
    softmaxes = [node for node in graph if node.op_type == "Softmax"]
    if softmaxes:
        mask = _mask(graph, softmaxes[0])
        for softmax in softmaxes:
            _fuse(graph, softmax, mask)
    model.opset_imports[""] = OPSET
    common.RemoveUnusedNodesPass()(model)
    return model


def with_square_mask(model: ir.Model) -> ir.Model:
    """Widen the mask of every Attention to [B, 1, S, S], in place; returns the same model.

    ONNX Runtime's CPU kernel takes no other, so this is how a fused graph is checked where TensorRT cannot run.
    """
    graph = model.graph
    attentions = [node for node in graph if node.op_type == "Attention"]
    if attentions:
        length = _node("Shape", "length", [_graph_input(graph, "attention_mask")], start=1, end=2)
        one = _constant(graph, "one", [1])
        shape = _node("Concat", "square.shape", [one, one, length.outputs[0], one], axis=0)
        square = _node("Expand", "square", [_input(attentions[0], 3), shape.outputs[0]])
        graph.insert_before(attentions[0], [length, shape, square])
        for attention in attentions:
            attention.replace_input_with(3, square.outputs[0])
    return model


def _mask(graph: ir.Graph, softmax: ir.Node) -> ir.Value:
    """What is added to the scores, [B, 1, 1, S], in the type of the products."""
    added = _before(softmax, 0, "Add")
    mask, products = _input(added, 1), _input(_before(added, 0, "MatMul"), 0)
    if products.dtype is None or mask.dtype == products.dtype:
        return mask
    cast = _node("Cast", "typed", [mask], to=int(products.dtype))
    graph.insert_before(added, cast)
    return cast.outputs[0]


def _fuse(graph: ir.Graph, softmax: ir.Node, mask: ir.Value) -> None:
    """Put Attention in the place of scores, mask, softmax and context of one layer."""
    scores = _before(_before(softmax, 0, "Add"), 0, "MatMul")
    keys = _before(scores, 1, "Transpose")
    context = _after(softmax, "MatMul")
    path = softmax.name.rpartition("/")[0] if softmax.name else ""
    # The exporter turns the keys for the product; Attention wants them like queries and values, [B, heads, S, D].
    heads_first = ir.node("Transpose", [_input(keys, 0)], {"perm": [0, 2, 1, 3]}, name=f"{path}/keys/Transpose")
    attention = ir.node(
        "Attention",
        [_input(scores, 0), heads_first.outputs[0], _input(context, 1), mask],
        {"scale": 1.0},  # the queries are scaled already; TensorRT takes no softmax_precision
        name=f"{path}/Attention",
    )
    for node in (heads_first, attention):
        node.outputs[0].name = node.name
    result = context.outputs[0]
    if result.dtype is not None:
        attention.outputs[0].dtype = result.dtype
    attention.outputs[0].shape = result.shape
    graph.insert_before(context, [heads_first, attention])
    result.replace_all_uses_with(attention.outputs[0])


def _before(node: ir.Node, index: int, op_type: str) -> ir.Node:
    """The node of this kind that makes an input, with casts skipped."""
    producer = _input(node, index).producer()
    while producer is not None and producer.op_type == "Cast":
        producer = _input(producer, 0).producer()
    if producer is None or producer.op_type != op_type:
        found = "an input of the graph" if producer is None else f"{producer.op_type} {producer.name}"
        raise ExportError(
            f"the attention around {node.name} is not as densepack exports it: {found} where {op_type} is expected. "
            "Export the graph again with this version"
        )
    return producer


def _after(node: ir.Node, op_type: str) -> ir.Node:
    """The only node of this kind that takes the result, with casts skipped."""
    takers = list(_takers(node))
    if [taker.op_type for taker in takers] != [op_type]:
        found = ", ".join(f"{taker.op_type} {taker.name}" for taker in takers) or "nothing"
        raise ExportError(
            f"the attention around {node.name} is not as densepack exports it: {found} takes the weights where one "
            f"{op_type} is expected. Export the graph again with this version"
        )
    return takers[0]


def _takers(node: ir.Node) -> Iterator[ir.Node]:
    for taker in node.outputs[0].consumers():
        if taker.op_type == "Cast":
            yield from _takers(taker)
        else:
            yield taker


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ExportError(f"{node.name} ({node.op_type}) has no input {index}: export the graph again")
    return value


def _graph_input(graph: ir.Graph, name: str) -> ir.Value:
    for value in graph.inputs:
        if value.name == name:
            return value
    raise ExportError(f"the graph has no input {name}: it was not exported by densepack")


def _constant(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    name = f"{_MASK}/{name}"
    value = ir.Value(name=name, const_value=ir.tensor(numbers, dtype=ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value


def _node(op_type: str, name: str, inputs: list[ir.Value], **attributes: int) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=f"{_MASK}/{name}")
    node.outputs[0].name = node.name
    return node
