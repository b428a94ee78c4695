"""A pretrained encoder as the start of a fine-tuning: what stands on it is left out, its answer head is new.

    config, stored, notes = with_new_head(config, stored, seed=0)

What has an answer head, or is another fine-tuned model, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from densepack_models.formats.config import family_of, structure_from_config
from densepack_runtime.errors import CheckpointError

HEAD = "qa_outputs"


def with_new_head(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], seed: int
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[str, ...]]:
    """Configuration and tensors of a question-answering checkpoint, and in words what was done for that.

    The head is drawn as transformers draws it: N(0, initializer_range), its bias 0.
    """
    family = family_of(config)
    names = [name for name in config.get("architectures") or () if name in family.encoders]
    if f"{HEAD}.weight" in stored or not names:
        return dict(config), dict(stored), ()
    encoder = {name: tensor for name, tensor in stored.items() if not family.pretraining_heads.match(name)}
    if not any(name.startswith(family.prefix) for name in encoder):
        encoder = {f"{family.prefix}{name}": tensor for name, tensor in encoder.items()}
    words = encoder.get(f"{family.file_name('embeddings.word.weight')}")
    head = _head(config, torch.float32 if words is None else words.dtype, seed)
    note = f"{names[0]} has no question-answering head: it is new, drawn with seed {seed}"
    return {**config, "architectures": [family.architecture]}, encoder | head, (note,)


def _head(config: Mapping[str, Any], dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    spread = config.get("initializer_range", 0.02)  # BertConfig's
    if type(spread) not in (int, float) or not (math.isfinite(spread) and spread >= 0):
        raise CheckpointError(f"initializer_range is {spread!r:.60}, a number of at least 0 is needed for a new head")
    shape = (2, structure_from_config(config).hidden_size)
    weight = spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return {f"{HEAD}.weight": weight.to(dtype), f"{HEAD}.bias": torch.zeros(2, dtype=dtype)}
