"""The tree shows the architecture, and these tests keep it so: imports point one way, and the runtime stays thin."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from tests.imports import Floors, Source, circles, floor_faults, imported, sources_of

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {
    "densepack_runtime": REPOSITORY / "runtime" / "densepack_runtime",
    "densepack_models": REPOSITORY / "models" / "densepack_models",
    "densepack_export": REPOSITORY / "export" / "densepack_export",
}
# Who may import whom: export -> models -> runtime, never back.
PACKAGES = ("densepack_runtime", "densepack_models", "densepack_export")
# From the ground up: a folder or module imports what stands below it, never what stands beside it.
FLOORS: dict[str, Floors] = {
    "densepack_runtime": (
        ("errors",),
        ("host",),
        ("structure",),
        ("sessions",),
        ("tensorrt_plans",),
        ("bundle",),
        ("backends",),
        ("question_answering",),
        ("benchmark", "parity", "serving"),
        ("commands",),
    ),
    "densepack_models": (
        ("families",),
        ("packed_bert",),
        ("weights",),
        ("formats",),
        ("packing_report", "reference", "torch_session"),
        ("packing",),
        ("inspection",),
        ("pruning",),
    ),
    "densepack_export": (
        ("measurements", "graphs"),
        ("plots", "plans"),
        ("report", "card", "proofs", "bench", "triton"),
        ("bundle_changes",),
        ("build",),
        ("checks", "commands"),
        ("cli",),
    ),
}
# What a reader sees of a package at its top, so that a new idea goes into a folder.
MOST_ENTRIES = {"densepack_runtime": 14, "densepack_models": 12, "densepack_export": 16}
# How files of transformers spell the parts of a BERT: `families` knows, and nobody else.
FILE_NAMES = ("attention.self", "intermediate.dense", "output.dense", "bert.encoder", "encoder.layer")
# Families by name, but for the one that the packed module is named after.
FAMILY_NAMES = ("roberta", "distilbert", "electra", "camembert", "xlm")
HEAVY = ("torch", "transformers", "onnx", "onnxscript", "safetensors", "polygraphy")
# `import densepack_runtime` has to be free; 0.3 s is what the slowest of our machines may take, interpreter excluded.
IMPORT_SECONDS = 0.3
SOURCES = sources_of(ROOTS)


def package_faults(sources: Sequence[Source]) -> list[str]:
    """Imports of a package that stands above the one they are in."""
    return [
        f"{source.name} imports {target}"
        for source in sources
        for target, _ in imported(source)
        if target.split(".")[0] in PACKAGES[PACKAGES.index(source.package) + 1 :]
    ]


def test_the_tree_is_walked() -> None:
    names = {source.name for source in SOURCES}
    assert {"densepack_runtime.sessions.session", "densepack_models.pruning.trainer", "densepack_export.cli"} <= names
    assert len(names) == sum(len(list(root.rglob("*.py"))) for root in ROOTS.values())


def test_packages_import_one_way() -> None:
    assert package_faults(SOURCES) == []


def test_every_module_imports_only_what_stands_below_it() -> None:
    assert floor_faults(SOURCES, FLOORS) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(SOURCES) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_top_of_a_package_is_seen_at_a_glance(package: str) -> None:
    entries = sorted(path.name for path in ROOTS[package].iterdir() if path.name != "__pycache__")
    assert len(entries) <= MOST_ENTRIES[package], entries


def spelling_faults(sources: Sequence[Source], names: Sequence[str]) -> list[str]:
    """Modules outside of `families` that say one of these names, in code or in words."""
    return [
        f"{source.name} says {name}"
        for source in sources
        for name in names
        if name in source.text.lower() and not source.name.startswith("densepack_models.families")
    ]


def test_only_families_know_how_files_spell_names() -> None:
    assert spelling_faults(SOURCES, FILE_NAMES) == []


def test_only_families_name_a_family() -> None:
    assert spelling_faults(SOURCES, FAMILY_NAMES) == []
    assert {family.model_type for family in FAMILIES if not spelling_faults([said(family)], FAMILY_NAMES)} == {"bert"}


def said(family: Family) -> Source:
    return Source("densepack_models.packing", f'if model_type == "{family.model_type}": ...')


def test_a_planted_name_of_a_family_is_found() -> None:
    sources = planted("densepack_models.packing", "# DistilBERT has no token types.")
    assert spelling_faults(sources, FAMILY_NAMES) == ["densepack_models.packing says distilbert"]


def planted(name: str, text: str) -> list[Source]:
    """The sources with one module more, or with a line more in one that is there."""
    before = {source.name: source for source in SOURCES}
    known = before[name].text if name in before else ""
    return [*(source for source in SOURCES if source.name != name), Source(name, f"{known}\n{text}\n")]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("sessions.batching", "from densepack_runtime.bundle import Bundle", "bundle, which is not below it"),
        ("sessions.batching", "def f():\n    import densepack_runtime.bundle", "bundle, which is not below it"),
        ("host.files", "from densepack_runtime import backends", "backends, which is not below it"),
        ("parity.climb", "from densepack_runtime.benchmark.sides import Side", "sides, which is not below it"),
        ("manager", "", "densepack_runtime.manager stands on no floor"),
        ("manager.things", "", "densepack_runtime.manager.things stands on no floor"),
    ],
)
def test_a_planted_import_that_goes_up_is_found(name: str, text: str, fault: str) -> None:
    found = floor_faults(planted(f"densepack_runtime.{name}", text), FLOORS)
    assert len(found) == 1
    assert fault in found[0]


def test_a_planted_import_of_a_package_above_is_found() -> None:
    text = "if TYPE_CHECKING:\n    from densepack_export.build import BuildResult"
    assert package_faults(planted("densepack_models.packing", text)) == [
        "densepack_models.packing imports densepack_export.build"
    ]


def test_a_planted_circle_is_found() -> None:
    """One floor's modules may import each other, but not in a circle."""
    [circle] = circles(planted("densepack_runtime.sessions.session", "import densepack_runtime.sessions.batching"))
    assert {"densepack_runtime.sessions.session", "densepack_runtime.sessions.batching"} <= set(circle)


@pytest.mark.parametrize(
    "source", [source for source in SOURCES if source.package == "densepack_runtime"], ids=lambda source: source.name
)
def test_runtime_never_imports_heavy_packages(source: Source) -> None:
    assert not {target.split(".")[0] for target, _ in imported(source)} & set(HEAVY)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


BLOCK = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"


def test_runtime_modules_import_without_heavy_packages() -> None:
    names = [source.name for source in SOURCES if source.package == "densepack_runtime"]
    done = run_python(f"{BLOCK}import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_command_line_starts_without_heavy_packages() -> None:
    done = run_python(f"{BLOCK}import densepack_export.cli")
    assert done.returncode == 0, done.stderr


def test_importing_the_runtime_is_free() -> None:
    code = "import time; t = time.perf_counter(); import densepack_runtime; print(time.perf_counter() - t)"
    seconds = min(float(run_python(code).stdout) for _ in range(3))
    assert seconds < IMPORT_SECONDS


def test_what_reads_records_is_imported_where_one_is_read() -> None:
    names = [source.name for source in SOURCES if source.package == "densepack_runtime"]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('msgspec' in sys.modules)"
    )
    assert run_python(code).stdout.strip() == "False"


def test_command_line_starts_quickly_and_imports_no_torch() -> None:
    start = time.perf_counter()
    done = run_python("import sys, densepack_export.cli; print([n for n in sys.modules if n in ('torch', 'onnx')])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert time.perf_counter() - start < 30


def test_a_package_shows_all_that_its_face_promises() -> None:
    done = run_python("import densepack_models as m; print([getattr(m, n).__name__ for n in m.__all__] == m.__all__)")
    assert done.stdout.strip() == "True", done.stderr
