"""What `densepack inspect` shows, on a replica of the published model and on a checkpoint with planted holes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_models.inspection import inspect
from tests.models.tiny_checkpoints import tiny_checkpoint


@pytest.mark.slow
def test_published_figures(tmp_path: Path, default_tokenizer_json: str) -> None:
    folder = random_checkpoint(tmp_path / "replica", SEED, tokenizer_json=default_tokenizer_json)
    document = inspect(load_checkpoint(folder)).as_dict()
    assert document["parameters_stored"] == 93_149_186
    assert document["parameters_packed"] == 46_161_559
    assert document["linear_weights"] == 22_248_960
    assert round(document["linear_density_percent"], 3) == 26.195
    assert round(document["overall_density_percent"], 3) == 42.398
    assert (document["heads_removed"], document["heads_total"]) == (80, 144)
    assert [layer["heads"] for layer in document["layers"]] == [layer.heads for layer in SEED.layers]
    assert [layer["ffn_units"] for layer in document["layers"]] == [layer.ffn_width for layer in SEED.layers]


def test_densities_count_what_is_not_zero() -> None:
    checkpoint = tiny_checkpoint()
    tensors = dict(checkpoint.tensors)
    name = "layer.1.attention.query.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][:8] = 0
    inspection = inspect(replace(checkpoint, tensors=tensors))
    assert inspection.layers[1].densities["query"] == 0.75
    assert inspection.layers[1].densities["key"] == 1.0
    assert inspection.layers[1].heads == (0, 1, 2, 3), "a head with zero queries stays"


def test_rows_fit_their_columns_and_the_document_is_json() -> None:
    inspection = inspect(tiny_checkpoint())
    assert all(len(row) == len(inspection.columns()) for row in inspection.rows())
    assert json.loads(json.dumps(inspection.as_dict()))["heads_total"] == 8
    assert ("heads removed", "0 of 8") in inspection.totals()
