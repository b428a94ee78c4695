"""Matrix products in INT8 in OpenVINO, from the float32 graph.

Weights become int8 with one scale for every output (symmetric, rounded to nearest); OpenVINO quantises the other factor
while it runs, every GROUP_SIZE values of a token with a scale of their own. So there is nothing to calibrate.

    with_int8_weights(model)
    compiled = core.compile_model(model, "CPU", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP_SIZE})
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Fewer values share a scale: more exact; more do: faster. 64 was the largest that kept 97 % of the answers of MiniLM.
GROUP_SIZE = 64
# The question-answering head has two outputs: nothing to win, and it decides.
_SMALLEST_OUTPUT = 16
# Products with fewer inputs are not quantised while they run, so that nothing is won; and OpenVINO 2026.4.1 computes
# those with an odd number of inputs from 17 to 63 wrongly in bfloat16 (half of a result is lost).
_SMALLEST_INPUT = GROUP_SIZE


def with_int8_weights(openvino: Any, model: Any) -> int:
    """Store the weights of the model's matrix products in INT8, in place; returns how many products these are."""
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul" and _weights(node) is not None]
    for product in products:
        weights = _weights(product)
        assert weights is not None
        values, scales = quantised(weights)
        ops = openvino.opset13
        stored = ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scales))
        replacement = ops.matmul(product.input_value(0), stored, False, True)
        replacement.set_friendly_name(product.get_friendly_name())
        product.output(0).replace(replacement.output(0))
    model.validate_nodes_and_infer_types()
    return len(products)


def quantised(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values and float32 scales [outputs, 1] whose product is nearest to weights [outputs, inputs]."""
    scales = np.abs(weights).max(axis=1, keepdims=True) / 127
    scales[scales == 0] = 1
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32)


def multiplies_int8(openvino: Any) -> bool:
    """Whether OpenVINO quantises while it runs on this processor (it takes AVX-512 VNNI, AVX-VNNI or AMX).

    It does not say so, and elsewhere it would quietly compute in float32: so a product is asked for whose small terms
    are lost beside a large one exactly when it does. Some instruction sets it has no kernel for at all, and fails.
    """
    ops = openvino.opset13
    size = 4 * GROUP_SIZE
    factor = ops.parameter([-1, size], np.float32)
    stored = ops.multiply(
        ops.convert(ops.constant(np.ones((size, size), np.int8)), "f32"), ops.constant(np.ones((size, 1), np.float32))
    )
    model = openvino.Model([ops.matmul(factor, stored, False, True)], [factor])
    row = np.full((1, size), 0.25, np.float32)
    row[0, 0] = 127.0
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP_SIZE}
    try:
        product = openvino.Core().compile_model(model, "CPU", options)([row])[0][0, 0]
    except RuntimeError:
        return False
    return bool(product == 127 + 0.25 * (size - GROUP_SIZE))


def _weights(product: Any) -> NDArray[np.float32] | None:
    """The constant second factor as [outputs, inputs], or None where it is not one worth quantising."""
    node = product.input_value(1).get_node()
    if node.get_type_name() != "Constant" or len(node.shape) != 2:
        return None
    data: NDArray[np.float32] = node.get_data()
    weights = data if product.get_attributes()["transpose_b"] else data.T
    outputs, inputs = weights.shape
    return weights if outputs >= _SMALLEST_OUTPUT and inputs >= _SMALLEST_INPUT else None
