"""Random checkpoints small enough for property tests, in memory."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertForQuestionAnswering

from densepack_models.families.bert import BERT
from densepack_models.formats.checkpoint import Checkpoint


def tiny_checkpoint(*, seed: int = 0, **changes: Any) -> Checkpoint:
    """A full-size BERT with nothing removed: 2 layers, 4 heads of 8, 16 FFN units, random weights *and biases*.

    Biases and norms are far from their initial values, so that a rule that forgets them shows.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        **changes,
    }
    architecture = {name: value for name, value in sizes.items() if name != "layer_norm_type"}
    model = BertForQuestionAnswering(BertConfig(**architecture))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensors[BERT.canonical_name(name)] = 1 + 0.1 * noise if name.endswith("LayerNorm.weight") else 0.2 * noise
    every_head = tuple(range(sizes["num_attention_heads"]))
    return Checkpoint(
        config={"model_type": "bert", "architectures": ["BertForQuestionAnswering"], **sizes},
        tensors=tensors,
        heads=(every_head,) * sizes["num_hidden_layers"],
        head_ids="original",
        ffn_positions="original",
        structure=None,
        tokenizer_json="{}",
        source="tiny",
        sha256="0" * 64,
    )
