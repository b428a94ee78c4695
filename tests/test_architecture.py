"""The tree shows the architecture, and these tests keep it so: imports point one way, and the runtime stays thin."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {
    "densepack_runtime": REPOSITORY / "runtime" / "densepack_runtime",
    "densepack_models": REPOSITORY / "models" / "densepack_models",
    "densepack_export": REPOSITORY / "export" / "densepack_export",
}
# Who may import whom: export -> models -> runtime, never back.
ALLOWED = {
    "densepack_runtime": {"densepack_runtime"},
    "densepack_models": {"densepack_runtime", "densepack_models"},
    "densepack_export": {"densepack_runtime", "densepack_models", "densepack_export"},
}
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "safetensors", "polygraphy")
# `import densepack_runtime` has to be free; 0.3 s is what the slowest of our machines may take, interpreter excluded.
IMPORT_SECONDS = 0.3
MODULES = sorted(path for root in ROOTS.values() for path in root.rglob("*.py"))


def imported_packages(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    package = next(name for name, root in ROOTS.items() if path.is_relative_to(root))
    ours = {name for name in imported_packages(path) if name.startswith("densepack_")}
    assert ours <= ALLOWED[package], f"{path.name} imports {sorted(ours - ALLOWED[package])}"


@pytest.mark.parametrize("path", sorted(ROOTS["densepack_runtime"].rglob("*.py")), ids=lambda path: path.name)
def test_runtime_never_imports_heavy_packages(path: Path) -> None:
    assert not set(imported_packages(path)) & set(HEAVY)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


BLOCK = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"


@pytest.mark.parametrize(
    "module", [path.stem for path in sorted(ROOTS["densepack_runtime"].glob("*.py")) if path.stem != "__init__"]
)
def test_runtime_modules_import_without_heavy_packages(module: str) -> None:
    done = run_python(f"{BLOCK}import densepack_runtime.{module}")
    assert done.returncode == 0, done.stderr


def test_command_line_starts_without_heavy_packages() -> None:
    done = run_python(f"{BLOCK}import densepack_export.cli")
    assert done.returncode == 0, done.stderr


def test_importing_the_runtime_is_free() -> None:
    code = "import time; t = time.perf_counter(); import densepack_runtime; print(time.perf_counter() - t)"
    seconds = min(float(run_python(code).stdout) for _ in range(3))
    assert seconds < IMPORT_SECONDS


def test_command_line_starts_quickly_and_imports_no_torch() -> None:
    start = time.perf_counter()
    done = run_python("import sys, densepack_export.cli; print([n for n in sys.modules if n in ('torch', 'onnx')])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert time.perf_counter() - start < 30
