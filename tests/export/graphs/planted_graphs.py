"""Faults planted into an exported graph, for the checks and the engine builder to find."""

from __future__ import annotations

import copy

import onnx
from onnx import TensorProto, helper


def cast_around(model: onnx.ModelProto, name: str, inside: int, outside: int) -> None:
    """Let one node compute in the type `inside`, between casts."""
    nodes = model.graph.node
    index = [node.name for node in nodes].index(name)
    node = copy.deepcopy(nodes[index])
    planted = [helper.make_node("Cast", ["planted_out"], [node.output[0]], "planted_back", to=outside), node]
    node.output[0] = "planted_out"
    for position, source in enumerate(list(node.input)):
        node.input[position] = f"planted_{position}"
        planted.append(helper.make_node("Cast", [source], [node.input[position]], f"planted{position}", to=inside))
    del nodes[index]
    for each in planted:
        nodes.insert(index, each)


def compute_in_float32(model: onnx.ModelProto) -> None:
    """The classic fault of a float16 graph: one product left in float32."""
    cast_around(model, "/layer.0/ffn/output/MatMul", inside=TensorProto.FLOAT, outside=TensorProto.FLOAT16)


def normalise_in_float16(model: onnx.ModelProto) -> None:
    """A LayerNorm outside its float32 island."""
    name = "/embeddings/norm/LayerNormalization"
    cast_around(model, name, inside=TensorProto.FLOAT16, outside=TensorProto.FLOAT)
