"""The encoder families whose checkpoints can be read, one small file each."""

from __future__ import annotations

from densepack_models.families.bert import BERT
from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.families.family import Family
from densepack_models.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

# The first is the default of what has no configuration of its own. Add to the list what is yours.
FAMILIES: list[Family] = [BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT, ELECTRA]
