"""A graph as AMX is fastest with it: the same logits, in bfloat16 and INT8.

    fit_tiles(openvino, model)

AMX multiplies tiles. FFN widths that pruning left odd are filled up with units of zeros, and keys are turned inside the
product that reads them, not before it. Measured in docs/speed.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from densepack_runtime.host.machine import processor_features

# Takes instruction sets away from the kernels that OpenVINO compiles; without it, or with these, none.
INSTRUCTION_SETS = "ONEDNN_MAX_CPU_ISA"
_EVERYTHING = ("", "ALL", "DEFAULT")
TILE = 64
_FIRST, _BIAS, _SECOND = "/ffn/intermediate/MatMul", "/ffn/intermediate/Add", "/ffn/output/MatMul"
# What turns keys [batch, tokens, heads, size] before the product, and what does where the product turns them.
_TURNED, _STRAIGHT = [0, 2, 3, 1], [0, 2, 1, 3]


def has_tiles() -> bool:
    """Whether this processor has AMX, and kernels may use it."""
    most = os.environ.get(INSTRUCTION_SETS, "").upper()
    return "amx_tile" in processor_features().split() and (most in _EVERYTHING or "AMX" in most)


def fit_tiles(openvino: Any, model: Any) -> None:
    """Rewrite the model in place."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    for name, node in nodes.items():
        if name.endswith(_SECOND):
            _fill_up(openvino, nodes, name.removesuffix(_SECOND))
        elif node.get_type_name() == "MatMul":
            _turn_inside(openvino, node)
    model.validate_nodes_and_infer_types()


def _fill_up(openvino: Any, nodes: Mapping[str, Any], layer: str) -> None:
    """Make a layer's FFN width a multiple of TILE. What the new units make of 0 meets weights of 0."""
    first, bias, second = (nodes.get(layer + name) for name in (_FIRST, _BIAS, _SECOND))
    if first is None or bias is None or second is None:
        return
    of_bias = next(index for index in (0, 1) if bias.input_value(index).get_node().get_type_name() == "Constant")
    in_second = 1 if second.get_attributes()["transpose_b"] else 0
    missing = -second.input_value(1).get_node().shape[in_second] % TILE
    if missing:
        _pad(openvino, first, 1, 0 if first.get_attributes()["transpose_b"] else 1, missing)
        _pad(openvino, bias, of_bias, -1, missing)
        _pad(openvino, second, 1, in_second, missing)


def _pad(openvino: Any, node: Any, index: int, axis: int, missing: int) -> None:
    """Add zeros at the end of one axis of a constant that this node takes in."""
    values = node.input_value(index).get_node().get_data()
    missing_at = [(0, 0)] * values.ndim
    missing_at[axis] = (0, missing)
    padded = openvino.opset13.constant(np.pad(values, missing_at))
    node.input(index).replace_source_output(padded.output(0))


def _turn_inside(openvino: Any, product: Any) -> None:
    """Let the product of queries and keys turn the keys, where they are turned for it alone."""
    turn = product.input_value(1).get_node()
    if turn.get_type_name() != "Transpose" or len(turn.output(0).get_target_inputs()) != 1:
        return
    if turn.input_value(1).get_node().get_data().tolist() != _TURNED:
        return
    ops = openvino.opset13
    straight = ops.transpose(turn.input_value(0), ops.constant(np.array(_STRAIGHT)))
    replacement = ops.matmul(product.input_value(0), straight, False, True)
    replacement.set_friendly_name(product.get_friendly_name())
    product.output(0).replace(replacement.output(0))
