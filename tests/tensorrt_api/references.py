"""What a piece of source text says about TensorRT: a chain of names from the module or from one of its classes."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

MODULE_NAMES = ("trt", "_trt")
"""What the module object is called, as a variable or as an attribute."""
TYPE_MODULES = ("trt", "trt_types", "tensorrt", "tensorrt_rtx")
"""What annotations take its types from."""

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "runtime_config": ("IRuntimeConfig",),
    "parser": ("OnnxParser",),
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "context": ("IExecutionContext",),
    "inspector": ("EngineInspector",),
    "cache": ("ITimingCache", "IRuntimeCache"),
    "timing_cache": ("ITimingCache",),
    "runtime_cache": ("IRuntimeCache",),
    "profile": ("IOptimizationProfile",),
    "shapes": ("IOptimizationProfile",),
    "layer": ("ILayer",),
    "tensor": ("ITensor",),
    "monitor": ("IProgressMonitor",),
    "logger": ("ILogger",),
}
"""Classes of an object by the name of its variable or attribute, where no annotation says more."""


class _Foreign(Enum):
    FOREIGN = "not an object of TensorRT"


FOREIGN: Final = _Foreign.FOREIGN


@dataclass(frozen=True, slots=True)
class Call:
    """Number of positional arguments, and the keywords of the others."""

    positional: int
    keywords: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reference:
    """A chain of attributes and calls: `config.get_timing_cache().serialize` is IBuilderConfig, two steps.

    Without classes it begins at the module. A step that is a tuple is a guess at the class of the object reached there,
    for where the API does not tell it.
    """

    classes: tuple[str, ...] = ()
    steps: tuple[str | tuple[str, ...], ...] = ()

    def then(self, name: str) -> Reference:
        return Reference(self.classes, (*self.steps, name))

    def otherwise(self, classes: tuple[str, ...]) -> Reference:
        return Reference(self.classes, (*self.steps, classes)) if classes and self.steps else self

    def tail(self) -> tuple[str, str]:
        """The class, where the reference names one, and the member of it."""
        whole = [*self.classes[:1], *self.steps]
        return (str(whole[-2]), str(whole[-1])) if len(whole) == 2 else ("", str(whole[-1]))

    def __str__(self) -> str:
        names = [step for step in self.steps if isinstance(step, str)]
        return ".".join(["|".join(self.classes) or "trt", *names])


Binding = Reference | Literal[_Foreign.FOREIGN] | None
"""What a name stands for; None leaves it to the conventions."""


def annotated_binding(annotation: ast.expr) -> Binding:
    """What an annotation says: a class of TensorRT, nothing (Any), or something else."""
    expression = _unquoted(annotation)
    if isinstance(expression, ast.BinOp):  # X | None
        sides = [side for side in (expression.left, expression.right) if not _is_none(side)]
        return annotated_binding(sides[0]) if len(sides) == 1 else FOREIGN
    if isinstance(expression, ast.Name) and expression.id == "Any":
        return None
    if isinstance(expression, ast.Attribute):
        path = ast.unparse(expression).split(".")
        if path[0] == "typing" and path[-1] == "Any":
            return None
        if path[0] in TYPE_MODULES:
            return Reference((".".join(path[1:]),))
    return FOREIGN


def element_annotation(annotation: ast.expr) -> ast.expr | None:
    """`X` of `Sequence[X]`, `tuple[X, ...]` and other containers of one type."""
    expression = _unquoted(annotation)
    if not isinstance(expression, ast.Subscript):
        return None
    inside = expression.slice
    return inside.elts[0] if isinstance(inside, ast.Tuple) and inside.elts else inside


def _unquoted(annotation: ast.expr) -> ast.expr:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_module(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in MODULE_NAMES
