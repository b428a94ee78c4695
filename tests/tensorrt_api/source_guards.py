"""Where a line runs at all: for which flavour, and after which hasattr tests.

if flavour == "tensorrt-rtx": ...           only for that flavour; the rest after `return` only for the other
if hasattr(config, "num_compute_capabilities"): ...     only where the class has it
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.tensorrt_api.references import Reference

FLAVOURS = frozenset({"tensorrt", "tensorrt-rtx"})
FLAVOUR_NAMES = ("flavour", "_flavour")


@dataclass(frozen=True, slots=True)
class Guard:
    """All of it holds: the flavour is one of `flavours`, every `present` exists, no `absent` does."""

    flavours: frozenset[str] = FLAVOURS
    present: frozenset[Reference] = frozenset()
    absent: frozenset[Reference] = frozenset()


ANYWHERE = Guard()
FindReference = Callable[[ast.expr], Reference | None]


def narrowed(
    guard: Guard, test: ast.expr, *, truth: bool, reference: FindReference, constants: Mapping[str, str]
) -> Guard:
    """The guard where `test` came out as `truth`; unchanged by tests that say nothing about TensorRT."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return narrowed(guard, test.operand, truth=not truth, reference=reference, constants=constants)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And if truth else ast.Or):
        for value in test.values:
            guard = narrowed(guard, value, truth=truth, reference=reference, constants=constants)
    if isinstance(test, ast.Compare):
        return _narrowed_flavour(guard, test, truth=truth, constants=constants)
    asked = _asked(test, reference)
    if asked is not None and truth:
        return replace(guard, present=guard.present | {asked})
    return replace(guard, absent=guard.absent | {asked}) if asked is not None else guard


def _narrowed_flavour(guard: Guard, test: ast.Compare, *, truth: bool, constants: Mapping[str, str]) -> Guard:
    operator, right = test.ops[0], test.comparators[0]
    if len(test.ops) != 1 or _last_name(test.left) not in FLAVOUR_NAMES:
        return guard
    elements = right.elts if isinstance(right, ast.Tuple | ast.Set | ast.List) else [right]
    values = {_text(element, constants) for element in elements}
    if not values <= FLAVOURS:
        return guard
    named = frozenset(value for value in values if value is not None)
    if isinstance(operator, ast.Eq | ast.In):
        return replace(guard, flavours=guard.flavours & named if truth else guard.flavours - named)
    if isinstance(operator, ast.NotEq | ast.NotIn):
        return replace(guard, flavours=guard.flavours - named if truth else guard.flavours & named)
    return guard


def _asked(test: ast.expr, reference: FindReference) -> Reference | None:
    """What a literal hasattr asks for."""
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
        owner, name = reference(test.args[0]), test.args[1]
        if owner is not None and isinstance(name, ast.Constant):
            return owner.then(str(name.value))
    return None


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _text(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def ends_block(statements: list[ast.stmt]) -> bool:
    """Whether what follows the block is not reached from it."""
    return bool(statements) and isinstance(statements[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
