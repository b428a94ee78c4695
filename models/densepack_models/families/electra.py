"""ELECTRA's discriminator: BERT with embeddings of their own width."""

from __future__ import annotations

import re
from dataclasses import replace

from densepack_models.families.bert import BERT

ELECTRA = replace(
    BERT,
    model_type="electra",
    architecture="ElectraForQuestionAnswering",
    config_keys={**BERT.config_keys, "embedding_size": "embedding_size"},
    defaults={
        **BERT.defaults,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
    },
    prefix="electra.",
    modules={**BERT.modules, "embeddings.project": "embeddings_project"},
    older_spellings={},
    encoders=("ElectraModel", "ElectraForPreTraining"),
    pretraining_heads=re.compile(r"discriminator_predictions\."),
    tokenizer_classes=("ElectraTokenizer",),
)
