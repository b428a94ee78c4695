"""Random-weight checkpoints of any shape, on disk as the published ones are: for tests, benchmarks and demos.

Speed, size and format of a pruned model depend on its shape alone, so a replica stands in where the weights are not.
`SEED` is the shape of madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1.

    folder = random_checkpoint("replica/", SEED, tokenizer_json=text)       # 355 MiB, the hub's list of files
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.config import config_from_structure
from densepack_models.formats.json_files import write_json, write_text
from densepack_models.formats.tensors import (
    HEAD_AXES,
    UNIT_AXES,
    expected_shapes,
    head_rows,
    spread,
    structure_widths,
)
from densepack_models.formats.tokenizer import SPECIAL_TOKENS, is_wordpiece, wordpiece_tokenizer
from densepack_models.formats.writer import published_config, published_tensors, save_tensors, write_tokenizer_files
from densepack_runtime.errors import InputError
from densepack_runtime.host.folders import new_folder
from densepack_runtime.structure import LayerStructure, Structure

# "published": heads cut, pruned_heads in the configuration, FFN padded. "full": everything at full size with zeros
# inside. "cut": heads and units cut and nothing that says which.
Layout = Literal["published", "full", "cut"]
Weights = Literal["bin", "safetensors"]

_SEED_HEADS = (
    (1, 3, 8, 10),
    (1, 4, 10, 11),
    (0, 3, 5, 6, 9, 10),
    (0, 1, 3, 5, 8, 9, 11),
    (3, 4, 5, 7, 8, 9, 10),
    (3, 4, 8, 9, 10),
    (1, 5, 6, 8, 9, 11),
    (0, 2, 4, 5, 8, 9, 10),
    (5, 7, 9, 10, 11),
    (0, 2, 6, 8, 11),
    (0, 2, 3, 10, 11),
    (1, 4, 9),
)
_SEED_WIDTHS = (552, 717, 795, 789, 833, 792, 620, 466, 283, 112, 96, 238)
SEED = Structure(
    vocab_size=30522,
    max_position_embeddings=512,
    type_vocab_size=2,
    hidden_size=768,
    num_attention_heads=12,
    intermediate_size=3072,
    layers=tuple(
        LayerStructure(heads=heads, ffn_units=tuple(range(width)), ffn_width=width)
        for heads, width in zip(_SEED_HEADS, _SEED_WIDTHS, strict=True)
    ),
    ffn_positions="stored",
)
# BERT's own initialisation: activations of a random model then stay as large as those of a trained one.
_SPREAD = 0.02
_ASCII = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-$%&/"


def random_checkpoint(
    folder: str | Path,
    structure: Structure,
    *,
    family: Family = FAMILIES[0],
    seed: int = 0,
    tokenizer_json: str | None = None,
    layout: Layout = "published",
    weights: Weights = "bin",
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random checkpoint with the heads and units of `structure`, and return its folder.

    Without `tokenizer_json` it gets a letter-by-letter vocabulary, with BERT's pairs and padding. The files are those
    that the published models have on the hub: README.md, config.json, weights, vocab.txt, tokenizer_config.json,
    special_tokens_map.json; tokenizer.json in place of vocab.txt where the tokenizer is of another kind.
    """
    tokenizer_json = tokenizer_json or letter_tokenizer(structure.vocab_size)
    tensors = family.file_names(laid_out(structure, random_tensors(structure, seed=seed), layout))
    with new_folder(Path(folder)) as temporary:
        write_json(temporary / "config.json", layout_config(structure, layout, family))
        write_weights(temporary, {name: tensor.to(dtype) for name, tensor in tensors.items()}, weights, shards)
        if not is_wordpiece(tokenizer_json):
            write_text(temporary / "tokenizer.json", tokenizer_json)
        write_tokenizer_files(temporary, tokenizer_json, structure.longest_input, structure.token_types)
        write_text(temporary / "README.md", f"# Random weights\n\nShape only, seed {seed}: its answers mean nothing.\n")
    return Path(folder)


def random_tensors(structure: Structure, *, seed: int = 0) -> dict[str, Tensor]:
    """float32 tensors at packed shapes; none of their entries is zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(structure, structure_widths(structure)).items():
        tensor = torch.randn(shape, generator=generator).mul_(_SPREAD)
        # Nothing may vanish in float16 either, where zero means removed.
        tensor = torch.where(tensor.abs() < 1e-6, _SPREAD, tensor)
        tensors[name] = tensor.add_(1) if name.endswith("norm.weight") else tensor
    for index, layer in enumerate(structure.layers):
        for name, axis in UNIT_AXES.items():  # units behind the live ones are padding
            tensor = tensors[f"layer.{index}.{name}"]
            tensor.narrow(axis, len(layer.ffn_units), layer.ffn_width - len(layer.ffn_units)).zero_()
    return tensors


def laid_out(structure: Structure, tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Tensors at packed shapes as a layout stores them."""
    if layout == "cut":
        return dict(tensors)
    placed = published_tensors(structure, tensors)
    if layout == "full":  # heads back at their ids
        for index, layer in enumerate(structure.layers):
            rows = head_rows(layer.heads, structure.head_size)
            spread(placed, index, HEAD_AXES, places=rows, size=structure.hidden_size)
    return placed


def layout_config(structure: Structure, layout: Layout, family: Family = FAMILIES[0]) -> dict[str, Any]:
    """config.json for a layout, without the mark that densepack's own writer leaves."""
    config = config_from_structure(structure, family)
    if layout == "published":
        config["pruned_heads"] = published_config(structure, family)["pruned_heads"]
    return config


def write_weights(folder: Path, tensors: Mapping[str, Tensor], weights: Weights = "bin", shards: int = 1) -> None:
    """Write tensors as one file, or as shards with their index, in files called as transformers calls them."""
    suffix, stem, whole = {
        "bin": (".bin", "pytorch_model", "pytorch_model.bin"),
        "safetensors": (".safetensors", "model", "model.safetensors"),
    }[weights]
    if shards == 1:
        _write_file(folder / whole, dict(tensors))
        return
    shard_of: dict[str, str] = {}
    names = list(tensors)
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}"
        part = {name: tensors[name] for name in names[number::shards]}
        shard_of |= dict.fromkeys(part, file)
        _write_file(folder / file, part)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": shard_of}
    write_text(folder / f"{whole}.index.json", json.dumps(index, indent=1) + "\n")


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        save_tensors(tensors, path)


def letter_tokenizer(vocab_size: int) -> str:
    """tokenizer.json of a WordPiece tokenizer that spells words, filled up with unused tokens. Raises InputError."""
    tokens = [*SPECIAL_TOKENS.values(), *_ASCII, *(f"##{letter}" for letter in _ASCII)]
    if vocab_size < len(tokens):
        raise InputError(f"a vocabulary of {vocab_size} is too small for letters, {len(tokens)} are needed")
    tokens += [f"[unused{number}]" for number in range(vocab_size - len(tokens))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return wordpiece_tokenizer(vocabulary, SPECIAL_TOKENS, {"do_lower_case": True}).to_str()
