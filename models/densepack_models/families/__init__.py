"""The encoder families whose checkpoints can be read, one small file each."""

from __future__ import annotations

from densepack_models.families.bert import BERT

FAMILIES = (BERT,)
