"""Names in the graph that say which part of the model a node, a tensor or a weight belongs to.

A node is called after its module and its operation, its output has the same name:

    /layer.3/attention/query/MatMul     /layer.3/attention/scores/MatMul     /layer.3/ffn_norm/norm/LayerNormalization

A parameter keeps its name in the module; one that was folded says how: `layer.3.attention.query.weight.transposed`.
Any other constant is named after the node that takes it: `/layer.3/attention/query/Reshape.shape`.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx
import onnx_ir as ir

TRANSPOSED = ".transposed"
CAST = ".cast"
_SUFFIX_OF_FOLDED = {"Transpose": TRANSPOSED, "Cast": CAST}
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"  # written by torch.onnx: module paths, then the name of the traced node
# The two products of activations in an attention block, in the order in which they are computed.
_ATTENTION_PRODUCTS = ("scores", "context")


def name_folded_parameters(model: ir.Model) -> None:
    """Name the results of transposing or casting a parameter, before constant folding makes initialisers of them."""
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type in _SUFFIX_OF_FOLDED and source is not None and source.is_initializer():
            node.outputs[0].name = f"{source.name}{_SUFFIX_OF_FOLDED[node.op_type]}"


def name_graph(model: ir.Model) -> None:
    """Name all nodes, their outputs (graph outputs keep theirs) and the constants that are not parameters."""
    graph = model.graph
    taken: Counter[str] = Counter()
    products: Counter[str] = Counter()
    graph_outputs = set(graph.outputs)
    for node in graph:
        path = module_path(node)
        if _is_product_of_activations(node):
            path += f"/{_ATTENTION_PRODUCTS[products[path] % len(_ATTENTION_PRODUCTS)]}"
            products[path.rpartition("/")[0]] += 1
        node.name = _unique(f"{path}/{node.op_type}", taken)
        for value in node.outputs:
            if value not in graph_outputs:
                value.name = node.name
    parameters = {value for value in graph.initializers.values() if _is_parameter(value)}
    for value in [value for value in graph.initializers.values() if value not in parameters]:
        consumer, index = next(iter(value.uses()))
        schema = onnx.defs.get_schema(consumer.op_type, model.opset_imports[""])
        value.name = _unique(f"{consumer.name}.{schema.inputs[min(index, len(schema.inputs) - 1)].name}", taken)


def module_path(node: ir.Node) -> str:
    """'/layer.3/attention/query' of a node that torch.onnx traced there, '' at the top of the model."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
    path, parent = "", ""
    for scope in scopes[:-1]:
        if not scope or not scope.startswith(parent):
            continue
        path += "/" + scope.removeprefix(parent).lstrip(".")
        parent = scope
    return path if not path.startswith("/_") else ""


def _is_product_of_activations(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and all(value is not None and value.const_value is None for value in node.inputs)


def _is_parameter(value: ir.Value) -> bool:
    """Parameters have a dotted module path for a name; torch.onnx calls constants val_1, mul_2, ..."""
    return value.name is not None and "." in value.name


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
