"""Proof of precision: the types of the matrix products in the network that TensorRT parsed.

A TensorRT build of a float32 graph ends without an error and gives a float32 engine, several times slower. In a
strongly typed network the types of the parsed layers are those of the engine, so they are counted before building.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from densepack_runtime.errors import EngineBuildError
from densepack_runtime.session import Precision

# Layers that multiply matrices, by the names of LayerType; fused attention is reported by its input layer.
PRODUCT_LAYERS = ("MATRIX_MULTIPLY", "EINSUM", "CONVOLUTION", "ATTENTION_INPUT")
_NAMED_IN_ERROR = 5


@dataclass(frozen=True, slots=True)
class ProductAudit:
    """`products` is the number of matrix products; `other` names those that are not Half, with their types."""

    products: int
    other: tuple[str, ...]

    @property
    def half_products(self) -> int:
        return self.products - len(self.other)

    def check(self, precision: Precision) -> None:
        """Raise EngineBuildError when a product is not of the precision that was asked for."""
        if precision == "fp16" and self.other:
            named = ", ".join(self.other[:_NAMED_IN_ERROR])
            more = f" and {len(self.other) - _NAMED_IN_ERROR} more" if len(self.other) > _NAMED_IN_ERROR else ""
            raise EngineBuildError(
                f"{len(self.other)} of {self.products} matrix products are not in float16: {named}{more}. Build from "
                "the graph that was exported with precision fp16"
            )
        if precision == "fp32" and self.half_products:
            raise EngineBuildError(
                f"{self.half_products} of {self.products} matrix products are in float16, and fp32 was asked for: "
                "build from the graph that was exported with precision fp32"
            )


def audit_products(trt: ModuleType, network: Any) -> ProductAudit:
    """Count the matrix products of a parsed network and name those with an input or output that is not Half."""
    kinds = {getattr(trt.LayerType, name) for name in PRODUCT_LAYERS if hasattr(trt.LayerType, name)}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    products = [layer for layer in layers if layer.type in kinds]
    typed = [(layer.name, sorted({dtype.name for dtype in _types(layer)})) for layer in products]
    other = tuple(f"{name} ({', '.join(types)})" for name, types in typed if types != [trt.float16.name])
    return ProductAudit(products=len(products), other=other)


def _types(layer: Any) -> Iterator[Any]:
    """Types of the inputs and outputs that carry numbers (the mask of a fused attention may be boolean)."""
    for index in range(layer.num_inputs):
        tensor = layer.get_input(index)
        if tensor is not None and tensor.dtype.name != "BOOL":
            yield tensor.dtype
    for index in range(layer.num_outputs):
        yield layer.get_output(index).dtype
