"""BERT, as transformers' BertForQuestionAnswering stores it."""

from __future__ import annotations

import re

from densepack_models.families.family import Family

BERT = Family(
    model_type="bert",
    architecture="BertForQuestionAnswering",
    config_keys={
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
        "hidden_size": "hidden_size",
        "num_attention_heads": "num_attention_heads",
        "num_layers": "num_hidden_layers",
        "intermediate_size": "intermediate_size",
        "hidden_act": "hidden_act",
        "layer_norm_eps": "layer_norm_eps",
        "layer_norm_type": "layer_norm_type",
    },
    # BertConfig's. The sizes of the layers have to be there.
    defaults={
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    },
    prefix="bert.",
    modules={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layer.{}.attention.query": "encoder.layer.{}.attention.self.query",
        "layer.{}.attention.key": "encoder.layer.{}.attention.self.key",
        "layer.{}.attention.value": "encoder.layer.{}.attention.self.value",
        "layer.{}.attention.output": "encoder.layer.{}.attention.output.dense",
        "layer.{}.attention_norm.norm": "encoder.layer.{}.attention.output.LayerNorm",
        "layer.{}.ffn.intermediate": "encoder.layer.{}.intermediate.dense",
        "layer.{}.ffn.output": "encoder.layer.{}.output.dense",
        "layer.{}.ffn_norm.norm": "encoder.layer.{}.output.LayerNorm",
    },
    # nn_pruning's wrapped FFN projections, and the LayerNorm of the first BERT releases.
    older_spellings={
        ".dense.linear.": ".dense.",
        "LayerNorm.gamma": "LayerNorm.weight",
        "LayerNorm.beta": "LayerNorm.bias",
    },
    ignored=re.compile(r"(.*\.)?position_ids|(.*\.)?pooler\..*"),
    encoders=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    pretraining_heads=re.compile(r"cls\."),
    # The others are its class by another name.
    tokenizer_classes=(
        "BertTokenizer",
        "LayoutLMTokenizer",
        "LxmertTokenizer",
        "MobileBertTokenizer",
        "SqueezeBertTokenizer",
    ),
)
