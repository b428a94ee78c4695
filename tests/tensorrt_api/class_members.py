"""What classes in source files declare: attributes with annotations, and what subclasses of TensorRT's add to them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tests.tensorrt_api.references import FOREIGN, Binding, annotated_binding, is_module, is_self


def class_fields(trees: Iterable[ast.AST]) -> dict[str, Binding]:
    """Attributes that classes annotate, by name; FOREIGN wins where two classes disagree."""
    found: dict[str, Binding] = {}
    for owner in (owner for tree in trees for owner in _classes(tree)):
        for node in owner.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, binding = node.target.id, annotated_binding(node.annotation)
                found[name] = FOREIGN if found.get(name) is FOREIGN else binding
    return found


def added_members(tree: ast.AST) -> set[tuple[str, str]]:
    """(class of TensorRT, name) of attributes that subclasses store in self, and of methods that the file reads."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    read = {node.attr for node in attributes if isinstance(node.ctx, ast.Load)}
    return {
        (base.attr, name)
        for owner in _classes(tree)
        for base in owner.bases
        if isinstance(base, ast.Attribute) and is_module(base.value)
        for name in _stored(owner) | (_methods(owner) & read)
    }


def _classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _stored(owner: ast.ClassDef) -> set[str]:
    stored = (node for node in ast.walk(owner) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {node.attr for node in stored if is_self(node.value)}


def _methods(owner: ast.ClassDef) -> set[str]:
    return {node.name for node in owner.body if isinstance(node, ast.FunctionDef)}
