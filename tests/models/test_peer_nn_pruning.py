"""densepack against nn_pruning's own packing, recorded by `tests/peers/nn_pruning_pack.py`.

Where nn_pruning's rule is exact both agree; where it is not, densepack stays with the unpacked model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from densepack_models.checkpoint import load_checkpoint
from densepack_models.packing import pack

RESULTS = Path(__file__).resolve().parents[1] / "peers" / "results" / "nn_pruning"
# Both compute in float64, so that only the rules differ; the issue asks for 1e-6.
TOLERANCE = 1e-10
# What nn_pruning gets wrong is far above rounding.
VISIBLE = 0.01

DOCUMENT = json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))
EXACT = ("exact", "cut heads")
INEXACT = tuple(name for name in DOCUMENT["cases"] if name not in EXACT)


def packed_logits(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """densepack's logits for a recorded case, float64 [2, B, S], and which positions are real [B, S]."""
    packed = pack(load_checkpoint(RESULTS / case["folder"]), dtype=torch.float64)
    inputs = [torch.tensor(case["inputs"][name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    with torch.inference_mode():
        logits = torch.stack(packed(*inputs))
    return logits, inputs[1].bool()


def largest(left: Tensor, right: Tensor, real: Tensor) -> float:
    return float((left - right).abs()[:, real].max())


@pytest.mark.parametrize("name", EXACT)
def test_both_agree_where_nn_pruning_is_exact(name: str) -> None:
    case = DOCUMENT["cases"][name]
    logits, real = packed_logits(case)
    assert largest(logits, torch.tensor(case["packed"], dtype=torch.float64), real) < TOLERANCE
    assert case["max_abs_difference"] < TOLERANCE


@pytest.mark.parametrize("name", INEXACT)
def test_densepack_is_exact_where_nn_pruning_is_not(name: str) -> None:
    case = DOCUMENT["cases"][name]
    logits, real = packed_logits(case)
    assert largest(logits, torch.tensor(case["unpacked"], dtype=torch.float64), real) < TOLERANCE
    assert case["max_abs_difference"] > VISIBLE


def test_the_cases_are_packed_at_all() -> None:
    sizes = {}
    for name, case in DOCUMENT["cases"].items():
        checkpoint = load_checkpoint(RESULTS / case["folder"])
        stored = sum(tensor.numel() for tensor in checkpoint.tensors.values())
        sizes[name] = stored - pack(checkpoint).structure.parameters
    assert all(saved > 0 for name, saved in sizes.items() if name not in ("cut heads", "query zero", "key zero")), sizes
