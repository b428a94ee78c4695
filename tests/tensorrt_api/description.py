"""What the stubs of a version say of its classes: members, inherited ones too, and parameters of methods.

api = describe(true_bindings("11.4.0.106", default_cache()))
"FP8" in api.members("DataType")
api.parameters("IOptimizationProfile", "set_shape")     # one list an overload: [["input", "min", "opt", "max"]]
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from tests.tensorrt_api.bindings import Bindings


@dataclass(frozen=True, slots=True)
class Api:
    """`version` is one of VERSIONS; `classes` has those of the module, enums among them, by name."""

    version: str
    classes: dict[str, ast.ClassDef]

    def members(self, name: str) -> set[str]:
        """Methods, properties and values of a class."""
        found = {node.name for node in self._body(name) if isinstance(node, ast.FunctionDef)}
        annotated = (node.target for node in self._body(name) if isinstance(node, ast.AnnAssign))
        return found | {target.id for target in annotated if isinstance(target, ast.Name)}

    def parameters(self, name: str, method: str) -> list[list[str]]:
        """Names of a method's parameters without self, one list an overload."""
        methods = (node for node in self._body(name) if isinstance(node, ast.FunctionDef) and node.name == method)
        return [[parameter.arg for parameter in node.args.args if parameter.arg != "self"] for node in methods]

    def _body(self, name: str) -> list[ast.stmt]:
        owner = self.classes[name]
        bases = [base.id for base in owner.bases if isinstance(base, ast.Name) and base.id in self.classes]
        return [*owner.body, *(node for base in bases for node in self._body(base))]


def describe(bindings: Bindings) -> Api:
    """The API of a version, read from its stub."""
    tree = ast.parse(bindings.stub.read_text(encoding="utf-8"))
    return Api(bindings.version, {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)})
