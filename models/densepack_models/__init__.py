"""PyTorch side of densepack: checkpoint formats, structure, packing, the packed BERT.

from densepack_models import load_checkpoint, pack, inspect
packed = pack(load_checkpoint("checkpoint/"))          # an nn.Module
start, end = packed(input_ids, attention_mask, token_type_ids)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
    from densepack_models.inspection import inspect
    from densepack_models.packed_bert import PackedBertForQuestionAnswering
    from densepack_models.packing import pack
    from densepack_runtime.structure import Structure

__all__ = ["Checkpoint", "PackedBertForQuestionAnswering", "Structure", "inspect", "load_checkpoint", "pack"]

_MODULES = {
    "Checkpoint": "densepack_models.formats.checkpoint",
    "PackedBertForQuestionAnswering": "densepack_models.packed_bert",
    "Structure": "densepack_runtime.structure",
    "inspect": "densepack_models.inspection",
    "load_checkpoint": "densepack_models.formats.checkpoint",
    "pack": "densepack_models.packing",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, and torch only then."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
