"""Bundles to reload: one that answers otherwise and is proven, one that answers wrongly, one that is damaged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from densepack_runtime.bundle import MANIFEST_NAME, REFERENCE_NAME, BundleDraft, Manifest

_OTHER = {"start_logits": "end_logits", "end_logits": "start_logits"}


def another(source: Path, folder: Path, name: str = "another") -> Path:
    """A bundle of this name that takes the ends of spans for their starts, in what is recorded of it, too."""
    wrong(source, folder)
    with np.load(folder / REFERENCE_NAME) as recorded:
        arrays = {_OTHER.get(key, key): value for key, value in recorded.items()}
    np.savez_compressed(folder / REFERENCE_NAME, **arrays)
    return _signed(folder, name)


def wrong(source: Path, folder: Path) -> Path:
    """A bundle that takes the ends of spans for their starts, other than what is recorded of it."""
    shutil.copytree(source, folder)
    graph = onnx.load(folder / "model.onnx")
    for node in graph.graph.node:
        node.output[:] = [_OTHER.get(output, output) for output in node.output]
    onnx.save(graph, folder / "model.onnx")
    return _signed(folder, "wrong")


def damaged(source: Path, folder: Path) -> Path:
    """A bundle of which a file is not as the manifest says."""
    shutil.copytree(source, folder)
    (folder / "model.onnx").write_bytes(bytes(100))
    return folder


def relink(link: Path, target: Path) -> None:
    """Have a link lead elsewhere, in one step."""
    link.with_suffix(".new").symlink_to(target)
    link.with_suffix(".new").rename(link)


def _signed(folder: Path, name: str) -> Path:
    manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
    BundleDraft(folder, replace(manifest, model=replace(manifest.model, name=name))).finish()
    return folder
