"""RoBERTa, and the two that are RoBERTa by another name: XLM-R and CamemBERT."""

from __future__ import annotations

import re
from dataclasses import replace

from densepack_models.families.bert import BERT

ROBERTA = replace(
    BERT,
    model_type="roberta",
    architecture="RobertaForQuestionAnswering",
    config_keys={**BERT.config_keys, "position_pad_id": "pad_token_id"},
    defaults={**BERT.defaults, "pad_token_id": 1},
    prefix="roberta.",
    older_spellings={},
    encoders=("RobertaModel", "RobertaForMaskedLM"),
    pretraining_heads=re.compile(r"lm_head\."),
    fixed={"token_types": "constant"},
    tokenizer_classes=("RobertaTokenizer",),
)
XLM_ROBERTA = replace(
    ROBERTA,
    model_type="xlm-roberta",
    architecture="XLMRobertaForQuestionAnswering",
    encoders=("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    sentencepiece="XLMRobertaConverter",
)
CAMEMBERT = replace(
    ROBERTA,
    model_type="camembert",
    architecture="CamembertForQuestionAnswering",
    encoders=("CamembertModel", "CamembertForMaskedLM"),
    sentencepiece="CamembertConverter",
)
