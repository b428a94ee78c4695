"""Matrix products in INT8 in OpenVINO, from the float32 graph.

Weights become int8 with one scale for every output (symmetric, rounded to nearest). What becomes of the other factor
depends on the processor. With AVX-512 VNNI, OpenVINO quantises it while it runs, every GROUP_SIZE values of a token
with a scale of their own, and there is nothing to calibrate:

    with_int8_weights(openvino, model)
    compiled = core.compile_model(model, "CPU", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP_SIZE})

With AMX it does not, and multiplies such weights in bfloat16; there, scales that never change are what is multiplied
in INT8, for the products whose ranges the bundle holds:

    with_fixed_scales(openvino, model, Int8Ranges.read(path))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BundleError
from densepack_runtime.sessions.int8_ranges import product_name
from densepack_runtime.sessions.openvino_tiles import TILE

# Fewer values share a scale: more exact; more do: faster. 64 was the largest that kept 97 % of the answers of MiniLM.
GROUP_SIZE = 64
# The question-answering head has two outputs: nothing to win, and it decides.
_SMALLEST_OUTPUT = 16
# Products with fewer inputs are not quantised while they run, so that nothing is won; and OpenVINO 2026.4.1 computes
# those with an odd number of inputs from 17 to 63 wrongly in bfloat16 (half of a result is lost).
_SMALLEST_INPUT = GROUP_SIZE
# Fixed scales: from -128 to 127, of which -1 is the first.
STEPS = 128


def with_int8_weights(openvino: Any, model: Any) -> int:
    """Store the weights of the model's matrix products in INT8, in place; returns how many products these are."""
    products = [(node, weights) for node in model.get_ops() if (weights := weights_of(node)) is not None]
    for product, weights in products:
        _multiply_by_int8(openvino, product, product.input_value(0), weights)
    model.validate_nodes_and_infer_types()
    return len(products)


def with_fixed_scales(openvino: Any, model: Any, ranges: Mapping[str, NDArray[np.float32]]) -> int:
    """Quantise both factors of the products that have ranges, in place; returns how many products these are.

    Each input is divided by its range and rounded to STEPS steps; the weights are multiplied by it before they are
    quantised. So one scale serves all inputs, as the hardware wants it, and large ones do not take the small ones'
    bits. Products that take in the same tensor with the same ranges share what it became; those right behind another
    one stay as they are. Raises BundleError for ranges of another product.
    """
    shared: dict[tuple[str, int, bytes], Any] = {}
    found = 0
    for product in model.get_ops():
        weights = weights_of(product)
        name = product_name(product.get_friendly_name())
        if weights is None or name not in ranges:
            continue
        factor = product.input_value(0)
        if _is_biased_product(factor.get_node()):
            continue
        wide = _filled_up(ranges[name], weights.shape[1], name)
        key = (factor.get_node().get_friendly_name(), factor.get_index(), wide.tobytes())
        if key not in shared:
            shared[key] = _in_steps(openvino, factor, wide)
        _multiply_by_int8(openvino, product, shared[key], weights * wide)
        found += 1
    model.validate_nodes_and_infer_types()
    return found


def _is_biased_product(node: Any) -> bool:
    """Whether a node adds the bias to a product: OpenVINO 2026.4.1 computes a division right behind it wrongly."""
    return node.get_type_name() == "Add" and any(
        value.get_node().get_type_name() == "MatMul" for value in node.input_values()
    )


def _filled_up(ranges: NDArray[np.float32], inputs: int, name: str) -> NDArray[np.float32]:
    """A range for each input; those that were added to fill tiles are 0."""
    if not 0 <= inputs - len(ranges) < TILE:
        raise BundleError(f"{len(ranges)} INT8 ranges for the {inputs} inputs of {name}: build the bundle again")
    return np.concatenate([ranges, np.ones(inputs - len(ranges), np.float32)])


def in_steps(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is multiplied with fixed scales, of values divided by their ranges: as OpenVINO rounds them."""
    steps: NDArray[np.float32] = np.clip(np.rint(values * STEPS), -STEPS, STEPS - 1).astype(np.float32)
    return steps / np.float32(STEPS)


def _in_steps(openvino: Any, factor: Any, ranges: NDArray[np.float32]) -> Any:
    ops = openvino.opset13
    first, last = (ops.constant(np.full((1, 1, 1), value, np.float32)) for value in (-1, (STEPS - 1) / STEPS))
    # OpenVINO's quantisation knows one range for a tensor; the multiplication in front of it is computed with it.
    divided = ops.multiply(factor, ops.constant(1 / ranges[None, None]))
    return ops.fake_quantize(divided, first, last, first, last, 2 * STEPS).output(0)


def _multiply_by_int8(openvino: Any, product: Any, factor: Any, weights: NDArray[np.float32]) -> None:
    """Put a product with these weights in INT8, [outputs, inputs], in the place of one."""
    ops = openvino.opset13
    values, scales = quantised(weights)
    stored = ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scales))
    replacement = ops.matmul(factor, stored, False, True)
    replacement.set_friendly_name(product.get_friendly_name())
    product.output(0).replace(replacement.output(0))


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


def weights_of(product: Any) -> NDArray[np.float32] | None:
    """The constant second factor as [outputs, inputs], or None where there is none worth quantising."""
    if product.get_type_name() != "MatMul":
        return None
    node = product.input_value(1).get_node()
    if node.get_type_name() != "Constant" or len(node.shape) != 2:
        return None
    data: NDArray[np.float32] = node.get_data()
    weights = data if product.get_attributes()["transpose_b"] else data.T
    return weights if is_worth_it(*weights.shape) else None


def is_worth_it(outputs: int, inputs: int) -> bool:
    """Whether a product with this many outputs and inputs is one for INT8."""
    return outputs >= _SMALLEST_OUTPUT and inputs >= _SMALLEST_INPUT
