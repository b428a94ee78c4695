"""A small bundle with a plan of the simulation, and batches to run on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from densepack_export.graphs.onnx_export import export_onnx, random_batch
from densepack_runtime.sessions.session import Batch
from densepack_runtime.structure import LayerStructure, Structure
from tests.export.conftest import random_module
from tests.gpu_simulation.install import Simulation, install

SHAPES = ((1, 1), (3, 17), (5, 70), (8, 128), (3, 17), (3, 20), (2, 200), (11, 64))


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Simulation:
    return install(monkeypatch)


@pytest.fixture
def folder(default_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the default bundle, without a plan."""
    return Path(shutil.copytree(default_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    """Real padding, mixed lengths, one with more rows than the plan takes at once."""
    structure = Structure(30522, 512, 2, 384, 12, 1536, (LayerStructure((), (), 0),))
    return [random_batch(structure, *shape, seed=index) for index, shape in enumerate(SHAPES)]


@pytest.fixture(scope="session")
def tiny_graph(tiny_structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that runs in no time. Exported before the simulation is installed: PyTorch looks for CUDA itself."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    export_onnx(random_module(tiny_structure), path, precision="fp16")
    return path
