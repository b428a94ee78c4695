"""Weight files: whole, in shards, damaged, malicious."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import Weights, write_weights
from densepack_models.formats.weight_files import find_weight_files, read_tensors, truncated_tensors, weights_sha256
from densepack_runtime.errors import CheckpointError
from tests.models.formats.planted_checkpoints import Planted

TENSORS = {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5), "c": torch.zeros(0, 4), "d": torch.ones(2, 2)}


def fault(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(find_weight_files(folder))
    return str(caught.value)


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
def test_all_files_give_the_same_tensors(tmp_path: Path, weights: Weights, shards: int) -> None:
    write_weights(tmp_path, TENSORS, weights, shards)
    files = find_weight_files(tmp_path)
    assert len(files.files) == shards
    tensors = read_tensors(files)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_sha256_is_of_the_bytes_in_name_order(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, "safetensors", 3)
    every_byte = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.safetensors")))
    assert weights_sha256(find_weight_files(tmp_path)) == hashlib.sha256(every_byte).hexdigest()
    assert (
        load_checkpoint(Planted().write(tmp_path / "c")).sha256
        == hashlib.sha256((tmp_path / "c" / "model.safetensors").read_bytes()).hexdigest()
    )


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, "bin")
    write_weights(tmp_path, TENSORS, "safetensors", 2)
    assert {path.suffix for path in find_weight_files(tmp_path).files} == {".safetensors"}


def test_a_folder_without_weights_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").touch()
    assert "there is tf_model.h5. densepack reads model.safetensors" in fault(tmp_path)


# --- damage ---


def test_truncated_safetensors_name_the_tensors_that_are_lost(tmp_path: Path) -> None:
    write_weights(tmp_path, TENSORS, "safetensors")
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    assert truncated_tensors(path) == []
    path.write_bytes(data[:-20])  # the last tensors are "b" [5] and "d" [2, 2]
    message = fault(tmp_path)
    assert f"model.safetensors is damaged, {len(data) - 20} bytes" in message
    assert "tensors cut off at its end: " in message
    assert "d" in truncated_tensors(path)
    assert "a" not in truncated_tensors(path)


@pytest.mark.parametrize("size", [0, 5, 8, 40])
def test_safetensors_cut_in_their_header(tmp_path: Path, size: int) -> None:
    write_weights(tmp_path, TENSORS, "safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert f"model.safetensors is damaged, {size} bytes" in fault(tmp_path)


HEADERS = [
    b"[]",
    b"{",
    b'{"a": 1}',
    b'{"a": {"data_offsets": 3}}',
    b"[" * 100_000,
    b'{"a": ' * 100_000,
    b"9" * 5000,
    b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
    b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    b'{"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "F32", "shape": [1e30], "data_offsets": [0, 4]}}',
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: str(header[:50]))
def test_safetensors_with_a_header_that_is_none(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "model.safetensors is damaged" in fault(tmp_path)


def test_git_lfs_pointers_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a Git LFS pointer and not the weights themselves: run `git lfs pull`" in fault(tmp_path)


# --- pickles ---


class Malicious:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch.save", "old torch.save", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, writer: str) -> None:
    folder, trace = Planted().write(tmp_path / "c", "bin"), tmp_path / "executed"
    stored = {"qa_outputs.weight": Malicious(trace)}
    path = folder / "pytorch_model.bin"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(stored, protocol=2))  # the one that torch.load reads without a warning
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=writer == "torch.save")
    with pytest.raises(CheckpointError, match=r"mkdir.*wants code to be run, which densepack never does"):
        load_checkpoint(folder)
    assert not trace.exists()
    if writer == "pickle":  # the trap works: this is what a careless reader would do
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"model": {"a": torch.ones(1)}, "step": 3}, "it also holds model (dict), step (int)"),
    ],
)
def test_pickles_that_are_not_a_dict_of_tensors(tmp_path: Path, content: object, seen: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert seen in fault(tmp_path)


def test_few_bytes_that_stand_for_many_values(tmp_path: Path) -> None:
    """Looking at all of them would take any memory."""
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "pytorch_model.bin")
    assert "holds tensors of more values than it has bytes for: a [1000000, 1000000]" in fault(tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9])
def test_headers_that_are_longer_than_their_file(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert "model.safetensors is damaged" in fault(tmp_path)


@pytest.mark.parametrize("size", [0, 10, 300, -30])
def test_truncated_pickles(tmp_path: Path, size: int) -> None:
    write_weights(tmp_path, TENSORS, "bin")
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    assert "pytorch_model.bin cannot be read as plain tensors" in fault(tmp_path)


# --- shards ---


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_weights(tmp_path, TENSORS, "safetensors", 2)
    return tmp_path


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_missing_shards_are_named(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    assert f"2 of 2 shards that {sharded}/model.safetensors.index.json lists are missing: {FIRST}, {SECOND}" in fault(
        sharded
    )


def test_tensors_that_are_not_where_the_index_says(sharded: Path) -> None:
    def swap(index: dict[str, Any]) -> None:
        index["weight_map"]["a"] = SECOND
        del index["weight_map"]["d"]
        index["weight_map"]["e"] = FIRST

    change_index(sharded, swap)
    message = fault(sharded)
    assert f"a is not in {SECOND}" in message
    assert f"e is not in {FIRST}" in message
    assert f"d in {SECOND} is not in the index" in message


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    (sharded / SECOND).write_bytes((sharded / FIRST).read_bytes())
    assert f"a is in {FIRST} and in {SECOND}" in fault(sharded)


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "x.py", 3])
def test_an_index_that_points_elsewhere(sharded: Path, name: object) -> None:
    change_index(sharded, lambda index: index["weight_map"].update(a=name))
    assert "names files that are not shards beside it" in fault(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "has no weight_map" in fault(sharded)


def test_an_index_that_is_not_json(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("weights")
    assert "is not JSON" in fault(sharded)
