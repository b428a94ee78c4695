"""The wheel holds what it should, answers outside the checkout, and drags in only what docs/install.md lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.loopback_hub import Hub, running

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("densepack_export", "densepack_models", "densepack_runtime")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Every distribution that an installation of `name[extras]` brings, by canonical name, `name` included."""
    installed = distribution(name)
    found[canonical(name)] = installed
    for text in installed.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})
        if wanted and canonical(requirement.name) not in found:
            closure(requirement.name, frozenset(requirement.extras), found)
    return found


@pytest.fixture(scope="module")
def production() -> dict[str, Distribution]:
    """What `pip install densepack[cpu]` brings, densepack itself left out."""
    found = closure("densepack", frozenset({"cpu"}), {})
    del found["densepack"]
    return found


def test_every_production_package_is_listed(production: dict[str, Distribution]) -> None:
    text = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    section = text.split("<!-- production packages -->")[1].split("<!-- end -->")[0]
    listed = {canonical(name) for name in re.findall(r"`([^`]+)`", section)}
    assert listed == set(production), f"docs/install.md and installation differ by {sorted(listed ^ set(production))}"


def test_constraints_pin_every_production_package(production: dict[str, Distribution]) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line}
    assert set(production) <= pinned


def licence(package: Distribution) -> str:
    """As its authors state it: an SPDX expression where they give one."""
    told = package.metadata.json
    classified = [text.split(" :: ")[-1] for text in told.get("classifier", ()) if text.startswith("License ::")]
    return str(told.get("license_expression") or told.get("license") or ", ".join(classified))


def test_the_document_lists_every_production_licence(production: dict[str, Distribution]) -> None:
    """With the versions that constraints.txt names."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}
    table = [f"| {name} | {versions[name]} | {licence(production[name])} |" for name in sorted(production)]
    text = (REPOSITORY / "docs" / "production.md").read_text(encoding="utf-8")
    listed = text.split("<!-- production licences -->\n")[1].split("<!-- end -->")[0].splitlines()
    assert listed[2:] == table, "it should be:\n" + "\n".join(table)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_wheel_holds_the_three_packages_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert "densepack_runtime/question_answering/sample_squad.json" in names
    assert "densepack_runtime/serving/page.html" in names
    assert {f"densepack_export/report/templates/report.{kind}" for kind in ("css", "html.j2")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.endswith(".safetensors") for name in names)


def test_sdist_can_be_built_from(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "runtime/densepack_runtime/bundle/archive.py"} <= names
    assert not any(name.endswith(".safetensors") for name in names)


def test_what_is_built_can_be_published(built: Path) -> None:
    """The check of the tool that uploads: names, metadata, and that the README can be shown."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_wheel_answers_outside_the_checkout(
    built: Path, production: dict[str, Distribution], tmp_path: Path, default_bundle: Path
) -> None:
    """An empty environment with the wheel and the production packages alone: no torch, no transformers, no onnx."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    for package in production.values():
        link_distribution(package, site)
    python = tmp_path / "venv" / "bin" / "python"
    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'onnx') if u.find_spec(n)])"
    seen = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    assert seen.stdout.strip() == "[]"
    densepack = [str(python), "-m", "densepack_export.cli"]
    packed = tmp_path / "bundle.tar"
    subprocess.run([*densepack, "archive", str(default_bundle), str(packed)], check=True, timeout=120, cwd=tmp_path)
    with running(Hub()) as hub:
        hub.commit_folder("somebody/bundle", default_bundle)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "PATH": os.environ["PATH"]}
        for where in (str(default_bundle), str(packed), "somebody/bundle"):
            lines = first_lines().replace('"bundle"', repr(where))
            done = subprocess.run(
                [python, "-c", lines], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("a Polish composer 0."), where
    assert any("/resolve/" in asked for asked in hub.asked)


def first_lines() -> str:
    """The Python that the README shows first."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return text.split("```python\n")[1].split("```")[0]


def link_distribution(package: Distribution, site: Path) -> None:
    """Make one installed distribution importable from another site-packages folder."""
    root = Path(str(package.locate_file("")))
    for entry in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (site / entry).exists():
            (site / entry).symlink_to(root / entry)
