"""Fixtures that all tests share: a tiny uneven structure, the embedded checkpoint, the data beside the checkout."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

from densepack_runtime.host.here import Host
from densepack_runtime.structure import LayerStructure, Structure
from tests.browser import browser
from tests.command_line import CommandLine
from tests.tensorrt_api.fixtures import tensorrt_bindings, true_api

__all__ = ["browser", "tensorrt_bindings", "true_api"]  # fixtures

BUNDLE_QUESTIONS = 8
REPOSITORY = Path(__file__).resolve().parents[1]
TINY_BUNDLE = REPOSITORY / "tests" / "last_version" / "bundle"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip where there is none. Files with the most slow tests come first, since two processes that
    take a file each (`make test`) would otherwise end one long after the other.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if Host.here().gpu is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU here"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real SQuAD and real checkpoints; only the project's own machines have them."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data (real SQuAD and checkpoints) is not here")
    return folder


@pytest.fixture(scope="session")
def default_checkpoint() -> Path:
    """The embedded default checkpoint: real weights in the published format."""
    return REPOSITORY / "models" / "checkpoints" / "default"


@pytest.fixture(scope="session")
def default_tokenizer_json(default_checkpoint: Path) -> str:
    return (default_checkpoint / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_structure() -> Structure:
    """Three uneven layers: some heads and units left, no head left, no unit left."""
    return Structure(
        vocab_size=30522,
        max_position_embeddings=512,
        type_vocab_size=2,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=48,
        layers=(
            LayerStructure(heads=(1, 3), ffn_units=tuple(range(17)), ffn_width=17),
            LayerStructure(heads=(), ffn_units=tuple(range(5)), ffn_width=5),
            LayerStructure(heads=(0, 1, 2), ffn_units=(), ffn_width=0),
        ),
    )


@pytest.fixture(scope="session")
def default_bundle(default_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of the default checkpoint, checked on the first sample questions; built once a test run."""
    from densepack_export.build import BuildOptions, build_bundle
    from densepack_runtime.host.story import Story
    from densepack_runtime.question_answering.squad import read_squad, sample_squad_path

    # With pytest-xdist every process has a folder of its own below one of the whole run.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "default" / "bundle"
    with FileLock(shared / "default.lock"):
        if not folder.exists():
            dataset = read_squad(sample_squad_path(), limit=BUNDLE_QUESTIONS)
            options = BuildOptions(squad=dataset, squad_name="sample", engine=False)
            build_bundle(default_checkpoint, folder, options, Story.silent())
    return folder


@pytest.fixture
def densepack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, in this process."""
    return CommandLine(monkeypatch, capsys)
