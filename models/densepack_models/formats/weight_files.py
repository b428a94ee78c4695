"""The weight files of a checkpoint: safetensors or PyTorch's pickles, whole or in shards, as one dict of tensors.

Tensors stay memory-mapped where the format allows it. Pickles are only ever read with weights_only=True: a file that
wants code to be run is refused.

    files = find_weight_files(folder)
    tensors = read_tensors(files)                   # dict[str, Tensor], as stored
    weights_sha256(files)
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError, joined
from densepack_runtime.host.strict_json import LARGEST_BYTES, parse_json

READABLE = (
    "model.safetensors, model.safetensors.index.json with its shards, pytorch_model.bin, or "
    "pytorch_model.bin.index.json with its shards"
)
_LFS_POINTER = b"version https://git-lfs"
_PIECE_BYTES = 1 << 20
# What PyTorch's readers were seen to raise for files with bytes changed or cut off, both its formats.
_UNPICKLING_FAILURES = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files that hold a checkpoint's tensors, in name order, and for shards which tensor is in which file."""

    files: tuple[Path, ...]
    shard_of: dict[str, str] | None = None


def find_weight_files(folder: Path) -> WeightFiles:
    """The weights in a folder; safetensors come before pickles, as in transformers. Raises CheckpointError."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return WeightFiles((folder / name,))
        if (folder / f"{name}.index.json").is_file():
            return _read_index(folder / f"{name}.index.json")
    there = joined(sorted(path.name for path in folder.iterdir() if path.is_file()), ", ")
    raise CheckpointError(
        f"no weights in {folder}: there is {there or 'nothing'}. densepack reads {READABLE}; other formats "
        "have to be saved again with transformers' save_pretrained"
    )


def _read_index(path: Path) -> WeightFiles:
    shard_of = read_json_object(path, "it lists the shards").get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{path} has no weight_map that says which tensor is in which file")
    names = sorted({name if isinstance(name, str) else repr(name) for name in shard_of.values()})
    foreign = [name for name in names if Path(name).name != name or Path(name).suffix not in (".safetensors", ".bin")]
    if foreign:
        raise CheckpointError(f"{path} names files that are not shards beside it: {joined(foreign, ', ')}")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} shards that {path} lists are missing: {joined(missing, ', ')}"
        )
    return WeightFiles(tuple(path.parent / name for name in names), shard_of)


def weights_sha256(files: WeightFiles) -> str:
    """Hex digest of the bytes of all weight files, one after the other in name order."""
    digest = hashlib.sha256()
    for path in files.files:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def read_tensors(files: WeightFiles) -> dict[str, Tensor]:
    """All tensors under their stored names. Raises CheckpointError for damaged files and for an index that is wrong."""
    found = {path.name: _read_file(path) for path in files.files}
    faults = list(_index_faults(found, files.shard_of or {}))
    if faults:
        raise CheckpointError(f"the shards are not as their index says: {joined(faults)}")
    return {name: tensor for tensors in found.values() for name, tensor in tensors.items()}


def _index_faults(found: dict[str, dict[str, Tensor]], shard_of: dict[str, str]) -> Iterator[str]:
    for name, shard in shard_of.items():
        if name not in found[shard]:
            yield f"{name} is not in {shard}"
    seen: dict[str, str] = {}
    for shard, tensors in found.items():
        for name in tensors:
            if name in seen:
                yield f"{name} is in {seen[name]} and in {shard}"
            elif shard_of and name not in shard_of:
                yield f"{name} in {shard} is not in the index"
            seen[name] = shard


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise CheckpointError(f"{path} is a Git LFS pointer and not the weights themselves: run `git lfs pull`")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        cut = truncated_tensors(path)
        lost = f"; tensors cut off at its end: {joined(cut, ', ')}" if cut else ""
        raise CheckpointError(
            f"{path} is damaged, {path.stat().st_size} bytes ({error}){lost}. Copy or download it again"
        ) from error


def truncated_tensors(path: Path) -> list[str]:
    """Names of the tensors of a safetensors file that its end cuts off; empty when even the header cannot be read."""
    # The format: the length of the header (8 bytes, little endian), the header (JSON), then the tensors' bytes.
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, LARGEST_BYTES):
            return []
        try:
            header = parse_json(file.read(length))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
            return [name for name, end in ends.items() if end > size - 8 - length]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return []


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNPICKLING_FAILURES as error:
        # PyTorch wraps what its reader said in advice to read the file unsafely.
        said = str(error.__context__ or error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({reason}): it is damaged, or it wants code to be run, which "
            "densepack never does. Copy it again, or save it as safetensors where you trust it"
        ) from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} must hold a dict of tensors, it holds a {type(stored).__name__}")
    others = [f"{name} ({type(value).__name__})" for name, value in stored.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} must hold a dict of tensors only, it also holds {joined(others, ', ')}")
    swollen = [f"{name} {list(tensor.shape)}" for name, tensor in stored.items() if _is_swollen(tensor)]
    if swollen:
        raise CheckpointError(f"{path} holds tensors of more values than it has bytes for: {joined(swollen, ', ')}")
    return {str(name): tensor.detach() for name, tensor in stored.items()}


def _is_swollen(tensor: Tensor) -> bool:
    """Whether few bytes of a file stand for many values, which would take any memory to look at."""
    return tensor.layout is torch.strided and tensor.nbytes > tensor.untyped_storage().nbytes()
