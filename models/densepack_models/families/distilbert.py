"""DistilBERT: BERT's layers under other names, without token types."""

from __future__ import annotations

import re

from densepack_models.families.family import Family

DISTILBERT = Family(
    model_type="distilbert",
    architecture="DistilBertForQuestionAnswering",
    config_keys={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_layers": "n_layers",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
    defaults={
        "max_position_embeddings": 512,
        "dim": 768,
        "n_heads": 12,
        "n_layers": 6,
        "hidden_dim": 3072,
        "activation": "gelu",
    },
    prefix="distilbert.",
    modules={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layer.{}.attention.query": "transformer.layer.{}.attention.q_lin",
        "layer.{}.attention.key": "transformer.layer.{}.attention.k_lin",
        "layer.{}.attention.value": "transformer.layer.{}.attention.v_lin",
        "layer.{}.attention.output": "transformer.layer.{}.attention.out_lin",
        "layer.{}.attention_norm.norm": "transformer.layer.{}.sa_layer_norm",
        "layer.{}.ffn.intermediate": "transformer.layer.{}.ffn.lin1",
        "layer.{}.ffn.output": "transformer.layer.{}.ffn.lin2",
        "layer.{}.ffn_norm.norm": "transformer.layer.{}.output_layer_norm",
    },
    older_spellings={},
    ignored=re.compile(r"(.*\.)?position_ids"),
    encoders=("DistilBertModel", "DistilBertForMaskedLM"),
    pretraining_heads=re.compile(r"vocab_(transform|layer_norm|projector)\."),
    tokenizer_classes=("DistilBertTokenizer",),
    fixed={"type_vocab_size": 0, "token_types": "none", "layer_norm_eps": 1e-12},
)
