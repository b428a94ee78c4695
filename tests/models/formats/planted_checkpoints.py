"""Checkpoints on disk that a test can bend: a small uneven structure, its tensors and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from densepack_models.families.bert import BERT
from densepack_models.formats.json_files import write_json
from densepack_models.formats.replica import (
    Layout,
    Weights,
    laid_out,
    layout_config,
    letter_tokenizer,
    random_tensors,
    write_weights,
)
from densepack_models.formats.writer import write_tokenizer_files
from densepack_runtime.structure import LayerStructure, Structure


def layer(heads: tuple[int, ...], units: tuple[int, ...]) -> LayerStructure:
    return LayerStructure(heads=heads, ffn_units=units, ffn_width=len(units))


# Four heads of 8, 24 FFN units. Holes in the FFN of layer 0, no head in layer 1, no unit in layer 2.
SMALL = Structure(
    vocab_size=128,
    max_position_embeddings=40,
    type_vocab_size=2,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=24,
    layers=(layer((1, 3), (0, 2, 3, 7, 20)), layer((), (0, 1, 2)), layer((0, 1, 2), ())),
)
# The same with something left everywhere, so that every tensor can be cut at its place.
UNEVEN = Structure(
    vocab_size=128,
    max_position_embeddings=40,
    type_vocab_size=2,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=24,
    layers=(layer((1, 3), tuple(range(5))), layer((2,), tuple(range(3))), layer((0, 1, 2, 3), tuple(range(24)))),
)


class Planted:
    """A checkpoint before it is written: change `tensors` (as files call them) and `config`, then `write` it."""

    def __init__(self, structure: Structure = SMALL, layout: Layout = "published", *, seed: int = 0) -> None:
        self.structure = structure
        tensors = laid_out(structure, random_tensors(structure, seed=seed), layout)
        self.tensors: dict[str, Tensor] = BERT.file_names(tensors)
        self.config: dict[str, Any] = layout_config(structure, layout)
        self.tokenizer_json = letter_tokenizer(structure.vocab_size)

    def write(self, folder: Path, weights: Weights = "safetensors", shards: int = 1) -> Path:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", self.config)
        write_weights(folder, self.tensors, weights, shards)
        write_tokenizer_files(folder, self.tokenizer_json, self.structure.max_position_embeddings)
        return folder


def change_json(path: Path, changes: Mapping[str, Any], *drop: str) -> None:
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in data.items() if name not in drop}))
