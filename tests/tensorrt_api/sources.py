"""Which of our source files touch TensorRT."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.tensorrt_api.description import REPOSITORY
from tests.tensorrt_api.references import MODULE_NAMES

ROOTS = tuple(
    REPOSITORY / root for root in ("export/densepack_export", "models/densepack_models", "runtime/densepack_runtime")
)
# The builder and the session, whether or not they are handed the module.
PATTERNS = ("engine*.py", "tensorrt_*.py")


def builder_and_session() -> list[Path]:
    return sorted({path for root in ROOTS for pattern in PATTERNS for path in root.glob(pattern)})


def tensorrt_sources() -> list[Path]:
    """The builder, the session, and every other file that holds the module."""
    named = set(builder_and_session())
    return sorted(path for root in ROOTS for path in root.rglob("*.py") if path in named or _holds_module(path))


def _holds_module(path: Path) -> bool:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = (
        node.arg if isinstance(node, ast.arg) else node.id for node in nodes if isinstance(node, ast.arg | ast.Name)
    )
    return any(name in MODULE_NAMES for name in names)
