"""Random checkpoints small enough for property tests, in memory or on disk, of every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering

from densepack_models.families.bert import BERT
from densepack_models.families.family import Family
from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.config import judged_config, structure_from_config
from densepack_models.formats.replica import letter_tokenizer
from densepack_models.formats.writer import write_transformers
from densepack_models.packing import pack
from tests.tiny_tokenizers import byte_level_tokenizer, unigram_tokenizer


def tiny_config(family: Family = BERT, **changes: Any) -> dict[str, Any]:
    """A judged configuration: 2 layers, 4 heads of 8, 16 FFN units. `changes` are by the fields of `Structure`."""
    fields: dict[str, Any] = {
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 16,
        "num_layers": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "embedding_size": 24,
        **changes,
    }
    keys = family.config_keys
    sizes = {keys[field]: value for field, value in fields.items() if field in keys}
    return judged_config({"model_type": family.model_type, "architectures": [family.architecture], **sizes})


def tiny_checkpoint(family: Family = BERT, *, seed: int = 0, **changes: Any) -> Checkpoint:
    """A full-size model with nothing removed (see `tiny_config`), with random weights *and biases*.

    Biases and norms are far from their initial values, so that a rule that forgets them shows.
    """
    config = tiny_config(family, **changes)
    told = {name: value for name, value in config.items() if name not in ("model_type", "layer_norm_type")}
    model = AutoModelForQuestionAnswering.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(family.model_type, **told)
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for stored, tensor in model.state_dict().items():
        name = family.canonical_name(stored)
        noise = torch.randn(tensor.shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise
    every_head = tuple(range(config[family.config_keys["num_attention_heads"]]))
    return Checkpoint(
        config=config,
        tensors=tensors,
        heads=(every_head,) * config[family.config_keys["num_layers"]],
        head_ids="original",
        ffn_positions="original",
        structure=None,
        tokenizer_json="{}",
        source="tiny",
        sha256="0" * 64,
    )


def tokenizer_of(family: Family, vocab_size: int) -> str:
    """tokenizer.json of the kind that a family's models have, with ids below `vocab_size`."""
    if structure_from_config(tiny_config(family)).position_pad_id is None:
        return letter_tokenizer(vocab_size)
    return (unigram_tokenizer if family.sentencepiece else byte_level_tokenizer)().to_str()


def written_checkpoint(folder: Path, family: Family, *, pruned: bool = False, seed: int = 0, **changes: Any) -> Path:
    """A tiny model in the published format, with a tokenizer; `pruned` takes heads and FFN units from it."""
    checkpoint = tiny_checkpoint(family, seed=seed, **{"vocab_size": 400, "max_position_embeddings": 258, **changes})
    if pruned:
        checkpoint = pruned_checkpoint(checkpoint)
    write_transformers(pack(checkpoint), folder, tokenizer_json=tokenizer_of(family, checkpoint.blank.vocab_size))
    return folder


def pruned_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Without a head in layer 0, with half of them in layer 1, and with every other FFN unit."""
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    size = checkpoint.blank.head_size
    tensors["layer.0.attention.output.weight"].zero_()
    tensors["layer.1.attention.output.weight"][:, 2 * size :] = 0
    for layer in range(2):
        tensors[f"layer.{layer}.ffn.output.weight"][:, ::2] = 0
    return replace(checkpoint, tensors=tensors)
