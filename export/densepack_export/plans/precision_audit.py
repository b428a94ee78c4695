"""The audit of a network's precision, from which its `PrecisionProof` comes.

    proof = audit_network(trt, network)         # before building
    proof.check("fp16")

A TensorRT build of a float32 graph ends without an error and gives a float32 engine, several times slower. In a
strongly typed network the types of the parsed layers are those of the engine, so they are counted before building. On
a GPU the finished engine is inspected as well.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from densepack_runtime.tensorrt_plans.module import TensorRT
from densepack_runtime.tensorrt_plans.precision_proof import REASONS, PrecisionProof

if TYPE_CHECKING:
    import tensorrt as trt_types

# Layers that multiply matrices, by the names of LayerType; fused attention is reported by its input layer.
PRODUCT_LAYERS = ("MATRIX_MULTIPLY", "EINSUM", "CONVOLUTION", "ATTENTION_INPUT")
UNKNOWN_HERE = "unknown here: only the inspector on a GPU can tell"
_FUSED_NAME = re.compile(r"mha|attention", re.IGNORECASE)


def audit_network(trt: TensorRT, network: trt_types.INetworkDefinition) -> PrecisionProof:
    """Count the matrix products of a parsed network, name those that are not Half, count what else is in float32."""
    kinds = {getattr(trt.LayerType, name) for name in PRODUCT_LAYERS if hasattr(trt.LayerType, name)}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = [layer for layer in layers if layer.type in kinds]
    typed = [(layer.name, sorted({dtype.name for dtype in _types(layer)})) for layer in products]
    single = Counter(layer.type.name for layer in layers if _computes_in_float32(layer) and layer.type not in kinds)
    return PrecisionProof(
        products=len(products),
        other=tuple(f"{name} ({', '.join(types)})" for name, types in typed if types != [trt.float16.name]),
        float32={kind: count for kind, count in single.most_common() if kind in REASONS},
        attention=_attention(layers),
    )


def _attention(layers: list[trt_types.ILayer]) -> str:
    fused = sum(layer.type.name == "ATTENTION_INPUT" for layer in layers)
    written_out = sum(layer.type.name == "SOFTMAX" for layer in layers)
    if written_out:
        return f"{written_out} written out; fused or not is {UNKNOWN_HERE}"
    return f"{fused} fused (IAttention: one kernel, or the build fails)" if fused else "none"


def _computes_in_float32(layer: trt_types.ILayer) -> bool:
    return any(layer.get_output(index).dtype.name == "FLOAT" for index in range(layer.num_outputs))


def _types(layer: trt_types.ILayer) -> Iterator[trt_types.DataType]:
    """Types of the inputs and outputs that carry numbers (the mask of a fused attention may be boolean)."""
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        if tensor is not None and tensor.dtype.name != "BOOL":
            yield tensor.dtype
    for index in range(layer.num_outputs):
        yield layer.get_output(index).dtype


def describe_engine(information: str) -> str:
    """One line about the finished engine: layers, how many give Half, how many are fused attention."""
    layers = json.loads(information).get("Layers", [])
    described = [layer for layer in layers if isinstance(layer, dict)]
    if not described:
        return f"{len(layers)} layers without details"
    half = sum(any("Half" in str(output) for output in layer.get("Outputs", [])) for layer in described)
    names = [f"{layer.get('TacticName', '')} {layer.get('Name', '')}" for layer in described]
    attention = sum(_FUSED_NAME.search(name) is not None for name in names)
    return f"{len(described)} layers, {half} of them with Half results, {attention} with attention in their name"
