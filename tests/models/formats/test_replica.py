"""Replicas: the published shape, and the same random model in every layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.config import structure_from_config
from densepack_models.formats.replica import SEED, Layout, Weights, letter_tokenizer, random_checkpoint, random_tensors
from densepack_models.packing import pack
from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.pair_format import load_tokenizer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.structure import LayerStructure, Structure
from tests.models.formats.planted_checkpoints import SMALL
from tests.models.tiny_checkpoints import tiny_config, tokenizer_of

HUB_FILES = [
    "README.md",
    "config.json",
    "pytorch_model.bin",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.txt",
]


@pytest.mark.shared
def test_seed_is_the_published_shape(shared_data: Path) -> None:
    shape = json.loads((shared_data / "seed_model_shape.json").read_text())
    assert [list(layer.heads) for layer in SEED.layers] == shape["heads"]
    assert [layer.ffn_width for layer in SEED.layers] == shape["intermediate_size"]
    assert (SEED.hidden_size, SEED.head_size, SEED.vocab_size) == (768, 64, 30522)
    assert SEED.dense().parameters == shape["params"]["dense_bert_base_qa"]


@pytest.mark.slow
def test_golden_numbers_of_the_seed(tmp_path: Path, default_tokenizer_json: str) -> None:
    folder = random_checkpoint(tmp_path / "seed", SEED, tokenizer_json=default_tokenizer_json)
    assert sorted(path.name for path in folder.iterdir()) == HUB_FILES
    checkpoint = load_checkpoint(folder)
    assert sum(tensor.numel() for tensor in checkpoint.tensors.values()) == 93_149_186
    assert checkpoint.heads == tuple(layer.heads for layer in SEED.layers)
    assert (checkpoint.head_ids, checkpoint.ffn_positions) == ("original", "stored")
    packed = pack(checkpoint)
    assert sum(parameter.numel() for parameter in packed.parameters()) == 46_161_559
    assert packed.structure == replace(SEED, source_sha256=checkpoint.sha256)


def test_the_shape_of_bert_large(tmp_path: Path) -> None:
    layers = (LayerStructure(heads=(3, 15), ffn_units=tuple(range(64)), ffn_width=64),) * 24
    large = Structure(
        vocab_size=128,
        max_position_embeddings=512,
        type_vocab_size=2,
        hidden_size=1024,
        num_attention_heads=16,
        intermediate_size=4096,
        layers=layers,
        ffn_positions="stored",
    )
    folder = random_checkpoint(tmp_path / "large", large, layout="cut", weights="safetensors", dtype=torch.float16)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tensors["layer.23.attention.output.weight"].shape == (1024, 128)
    assert sum(tensor.numel() for tensor in checkpoint.tensors.values()) == large.parameters


@pytest.mark.parametrize("layout", ["published", "full", "cut"])
@pytest.mark.parametrize(("weights", "shards"), [("bin", 1), ("safetensors", 1), ("bin", 2), ("safetensors", 4)])
def test_every_layout_and_file_packs_to_the_structure(
    tmp_path: Path, layout: Layout, weights: Weights, shards: int
) -> None:
    folder = random_checkpoint(tmp_path / "c", SMALL, seed=3, layout=layout, weights=weights, shards=shards)
    packed = pack(load_checkpoint(folder))
    counts = [(len(layer.heads), layer.ffn_width) for layer in packed.structure.layers]
    assert counts == [(2, 5), (0, 3), (3, 0)]
    if layout != "cut":
        assert [layer.heads for layer in packed.structure.layers] == [(1, 3), (), (0, 1, 2)]
        assert [layer.ffn_units for layer in packed.structure.layers] == [(0, 2, 3, 7, 20), (0, 1, 2), ()]
    name = "layer.0.attention.key.weight"
    assert torch.equal(packed.get_parameter(name), random_tensors(SMALL, seed=3)[name])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_every_family_packs_to_the_structure(tmp_path: Path, family: Family) -> None:
    sizes = structure_from_config(tiny_config(family, intermediate_size=SMALL.intermediate_size, vocab_size=400))
    pruned = replace(sizes, layers=SMALL.layers)
    random_checkpoint(tmp_path / "c", pruned, family=family, tokenizer_json=tokenizer_of(family, 400))
    assert json.loads((tmp_path / "c" / "config.json").read_text())["architectures"] == [family.architecture]
    checkpoint = load_checkpoint(tmp_path / "c")
    assert pack(checkpoint).structure == replace(pruned, source_sha256=checkpoint.sha256)
    assert load_tokenizer(checkpoint.tokenizer_json).get_vocab_size() <= 400


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_is_zero_by_accident_and_activations_stay_sane(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = random_tensors(SMALL)
    assert all(bool(tensor.to(dtype).all()) for tensor in tensors.values())
    packed = pack(load_checkpoint(random_checkpoint(tmp_path / "c", SMALL, dtype=dtype)))
    ids = torch.arange(5, 35)[None]
    with torch.inference_mode():
        start, end = packed(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert 1e-3 < float(start.std()) < 10
    assert not torch.equal(start, end)


def test_a_seed_gives_the_same_bytes_again(tmp_path: Path) -> None:
    folders = [
        random_checkpoint(tmp_path / str(n), SMALL, seed=seed, weights="safetensors")
        for n, seed in enumerate((1, 1, 2))
    ]
    first, again, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == again
    assert first != other


def test_padding_of_a_structure_is_zero() -> None:
    padded = replace(SMALL, layers=(replace(SMALL.layers[0], ffn_width=8), *SMALL.layers[1:]))
    first = random_tensors(padded)["layer.0.ffn.intermediate.weight"]
    assert first.any(1).tolist() == [True] * 5 + [False] * 3


def test_letter_tokenizer_makes_windows() -> None:
    [window] = Windower(letter_tokenizer(128)).windows("who?", "a B c")
    assert window.offsets.tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InputError, match="a vocabulary of 50 is too small"):
        letter_tokenizer(50)


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        random_checkpoint(tmp_path, SMALL)
