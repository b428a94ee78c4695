"""Which of our source files hold TensorRT's module or objects of it."""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = tuple(
    REPOSITORY / root for root in ("export/densepack_export", "models/densepack_models", "runtime/densepack_runtime")
)
MODULES = {"tensorrt", "tensorrt_rtx"}


def tensorrt_sources() -> list[Path]:
    """Files that import one of the modules, for its types, or have a parameter for it, `trt`."""
    return sorted(path for root in ROOTS for path in root.rglob("*.py") if _holds_tensorrt(path))


def _holds_tensorrt(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return ("tensorrt" in text or "trt" in text) and any(_names_it(node) for node in ast.walk(ast.parse(text)))


def _names_it(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return str(node.module).split(".")[0] in MODULES
    return isinstance(node, ast.arg) and node.arg == "trt"
