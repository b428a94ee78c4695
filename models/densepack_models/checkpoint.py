"""Stand-in until the full reader lands: plain safetensors in the published format."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from densepack_models.structure import Positions, Structure


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    heads: tuple[tuple[int, ...], ...]
    head_ids: Positions
    ffn_positions: Positions
    structure: Structure | None
    tokenizer_json: str
    source: str
    sha256: str


def load_checkpoint(path: str | Path, *, revision: str | None = None) -> Checkpoint:
    folder = Path(path)
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: v for k, v in tensors.items() if "position_ids" not in k and "pooler" not in k}
    pruned = {int(k): set(v) for k, v in config.get("pruned_heads", {}).items()}
    heads = tuple(
        tuple(h for h in range(config["num_attention_heads"]) if h not in pruned.get(i, set()))
        for i in range(config["num_hidden_layers"])
    )
    sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return Checkpoint(
        config, tensors, heads, "original", "stored", None, (folder / "tokenizer.json").read_text(), folder.name, sha
    )
