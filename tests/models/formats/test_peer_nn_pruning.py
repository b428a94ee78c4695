"""densepack against nn_pruning itself, run under transformers 4.57 and recorded by the scripts of `tests/peers/`.

Where nn_pruning's packing is exact both agree; where it is not, densepack stays with the unpacked model. Its files are
read in each of the formats that it writes. All of it is computed in float64, so that only the rules differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import random_checkpoint
from densepack_models.packing import pack
from densepack_runtime.structure import STRUCTURE, Structure

RESULTS = Path(__file__).resolve().parents[2] / "peers" / "results"
# The issue asks for 1e-6; in float64 the same rule gives 1e-13.
TOLERANCE = 1e-10
# Norms that became scales are rounded to float32 once, when the training checkpoint is read; nn_pruning's own training
# and compiled models differ by 1.2e-6 for that reason.
ROUNDED_NORMS_TOLERANCE = 5e-6
# A replica is made again here: float32 random numbers can differ in the last bit between processors.
REPLICA_TOLERANCE = 1e-6
# What nn_pruning gets wrong is far above rounding.
VISIBLE = 0.01


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return document


PACKING = recorded("nn_pruning/results.json")
FORMATS = recorded("nn_pruning_formats/results.json")
REPLICAS = recorded("nn_pruning_replica.json")
EXACT = ("exact", "cut heads")
INEXACT = tuple(name for name in PACKING["cases"] if name not in EXACT)
STORED = [(name, stored) for name, case in FORMATS["cases"].items() for stored in case["logits"]]


def packed_difference(folder: Path, case: dict[str, Any], expected: list[Any]) -> tuple[float, int]:
    """Largest |Δlogit| between densepack's packed model and recorded logits [2, B, S]; parameters of the former."""
    packed = pack(load_checkpoint(folder), dtype=torch.float64)
    inputs = [torch.tensor(case["inputs"][name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    with torch.inference_mode():
        logits = torch.stack(packed(*inputs))
    return largest(logits, torch.tensor(expected, dtype=torch.float64), inputs[1].bool()), count(packed)


def largest(left: Tensor, right: Tensor, real: Tensor) -> float:
    return float((left - right).abs()[:, real].max())


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_both_agree_where_nn_pruning_is_exact(name: str) -> None:
    case = PACKING["cases"][name]
    difference, _ = packed_difference(RESULTS / "nn_pruning" / case["folder"], case, case["packed"])
    assert difference < TOLERANCE
    assert case["max_abs_difference"] < TOLERANCE


@pytest.mark.parametrize("name", INEXACT)
def test_densepack_is_exact_where_nn_pruning_is_not(name: str) -> None:
    case = PACKING["cases"][name]
    difference, _ = packed_difference(RESULTS / "nn_pruning" / case["folder"], case, case["unpacked"])
    assert difference < TOLERANCE
    assert case["max_abs_difference"] > VISIBLE


def test_the_cases_are_packed_at_all() -> None:
    sizes = {}
    for name, case in PACKING["cases"].items():
        checkpoint = load_checkpoint(RESULTS / "nn_pruning" / case["folder"])
        stored = sum(tensor.numel() for tensor in checkpoint.tensors.values())
        sizes[name] = stored - pack(checkpoint).structure.parameters
    assert all(saved > 0 for name, saved in sizes.items() if name not in ("cut heads", "query zero", "key zero")), sizes


@pytest.mark.parametrize(("name", "stored"), STORED)
def test_every_format_that_nn_pruning_writes_is_read(name: str, stored: str) -> None:
    case = FORMATS["cases"][name]
    folder = RESULTS / "nn_pruning_formats" / case["folder"] / stored
    difference, parameters = packed_difference(folder, case, case["logits"][stored])
    rounded = stored == "training" and "no-norm" in name
    assert difference < (ROUNDED_NORMS_TOLERANCE if rounded else TOLERANCE)
    assert parameters == case["parameters"]  # what nn_pruning's own packed model has


def test_the_formats_are_recorded() -> None:
    assert [stored for name, stored in STORED if name == "hybrid"] == [
        "training",
        "compiled",
        "optimised",
        "published",
    ]
    for document in (PACKING, FORMATS, REPLICAS):
        assert document["versions"]["nn_pruning"] == "0.1.2"
        assert document["versions"]["transformers"].startswith("4.57")
        assert document["hardware"]["cores"] > 0


@pytest.mark.parametrize("name", ["small", pytest.param("seed", marks=pytest.mark.slow)])
def test_nn_pruning_packs_the_replica_to_the_same(name: str, tmp_path: Path) -> None:
    case = REPLICAS["cases"][name]
    structure = STRUCTURE.record(case["structure"], Structure)
    folder = random_checkpoint(tmp_path / "replica", structure, seed=case["seed"])
    difference, parameters = packed_difference(folder, case, case["packed"])
    assert difference < REPLICA_TOLERANCE
    assert parameters == case["parameters_packed"]
    if name == "seed":
        assert (case["parameters"], parameters) == (93_149_186, 46_161_559)
