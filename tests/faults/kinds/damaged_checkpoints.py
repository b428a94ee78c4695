"""A small checkpoint in every format that is read, with something wrong: it is read, or refused; nothing in it runs."""

from __future__ import annotations

import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.writer import write_packed
from densepack_models.inspection import inspect
from densepack_models.packing import logit_difference, pack
from tests.faults.damage import (
    ending,
    flip_or_cut,
    fresh_copy,
    hostile_json,
    hostile_json_file,
    put_something_else,
)
from tests.faults.kinds.kind import EXECUTED, kind
from tests.models.formats.planted_checkpoints import Planted
from tests.models.formats.test_training_masks import HYBRID, Training

READ = "read, inspected and packed"
_LENGTH_BYTES = 8  # of a safetensors file's header, at its start


@kind("damaged checkpoints", tries=500, quick=15)
def damaged_checkpoints(seed: int, folder: Path) -> Iterator[str]:
    sources = _sources(folder / "sources")
    rng, trace = random.Random(seed), folder / "executed"
    while True:
        checkpoint = fresh_copy(rng.choice(sources), folder / "checkpoint")
        _damage(rng, checkpoint, trace)
        end = ending(partial(_use, checkpoint))
        if trace.exists():
            trace.rmdir()
            end = f"{EXECUTED}: {end}"
        yield end


def _sources(folder: Path) -> list[Path]:
    """Whole ones: files of both kinds, in one piece and in shards, packed, and of a training with masks."""
    planted = Planted()
    sources = [
        planted.write(folder / f"{weights}{shards}", weights, shards)
        for weights in ("safetensors", "bin")
        for shards in (1, 2)
    ]
    (sources[0] / "tokenizer.json").write_text(planted.tokenizer_json, encoding="utf-8")
    checkpoint = load_checkpoint(sources[0])
    write_packed(pack(checkpoint), folder / "packed", tokenizer_json=checkpoint.tokenizer_json)
    return [*sources, folder / "packed", Training(HYBRID).write(folder / "training")]


def _use(checkpoint: Path) -> str:
    read = load_checkpoint(checkpoint)
    json.dumps(inspect(read).as_dict())
    logit_difference(read, pack(read))
    return READ


def _damage(rng: random.Random, checkpoint: Path, trace: Path) -> None:
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    of_json = [path for path in files if path.suffix == ".json"]
    pickles, safetensors = ([path for path in files if path.suffix == end] for end in (".bin", ".safetensors"))
    ways: list[Callable[[], None]] = [
        lambda: flip_or_cut(rng, rng.choice(files)),
        lambda: put_something_else(rng, rng.choice(files)),
        lambda: hostile_json_file(rng, rng.choice(of_json)),
        lambda: hostile_json_file(rng, checkpoint / "config.json"),
        lambda: _hostile_pickle(rng, rng.choice(pickles), trace) if pickles else _hostile_header(rng, safetensors[0]),
    ]
    rng.choice(ways)()


def _hostile_header(rng: random.Random, path: Path) -> None:
    """Offsets, shapes, types and lengths that are not those of the file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header, tensors = data[_LENGTH_BYTES : _LENGTH_BYTES + length], data[_LENGTH_BYTES + length :]
    changed = json.dumps(hostile_json(rng, json.loads(header))).encode()
    told = rng.choice((len(changed), len(changed), len(changed), 2**63, 2**64 - 1, 0, 10**9))
    path.write_bytes(told.to_bytes(_LENGTH_BYTES, "little") + changed + tensors)


class _Malicious:
    """Pickles into a call that leaves a folder behind."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _hostile_pickle(rng: random.Random, path: Path, trace: Path) -> None:
    """A pickle that runs code where it is read carelessly, in all forms that PyTorch has for one."""
    calls = (
        _Malicious(os.mkdir, str(trace)),
        _Malicious(eval, f"__import__('os').mkdir({str(trace)!r})"),
        _Malicious(os.system, f"mkdir {trace}"),
        _Malicious(getattr, _Malicious(os.mkdir, str(trace)), "x"),
    )
    stored: Any = {"qa_outputs.weight": rng.choice(calls), "qa_outputs.bias": torch.ones(2)}
    stored = rng.choice((stored, stored["qa_outputs.weight"], {rng.choice(("a", 3)): [stored]}))
    match rng.randrange(3):
        case 0:
            torch.save(stored, path)
        case 1:
            torch.save(stored, path, _use_new_zipfile_serialization=False)
        case 2:
            path.write_bytes(pickle.dumps(stored, protocol=rng.randrange(6)))
    if rng.random() < 0.2 and zipfile.is_zipfile(path):
        _append_member(path, pickle.dumps(calls[0]))


def _append_member(path: Path, data: bytes) -> None:
    """A second member of the archive under the name of its first: readers may take either."""
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], data)
