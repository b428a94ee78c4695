"""The published model's figures follow from its shape, and structure.json is read as it was written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from densepack_models.formats.replica import SEED
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import CheckpointError
from densepack_runtime.structure import Structure


def test_published_parameters() -> None:
    assert SEED.dense().parameters == 108_893_186
    assert SEED.parameters == 46_161_559
    assert SEED.linear_weights == 22_248_960
    assert SEED.dense().linear_weights == 84_934_656


def test_published_densities_and_heads() -> None:
    assert round(100 * SEED.linear_density, 3) == 26.195
    assert round(100 * SEED.overall_density, 3) == 42.398
    assert (SEED.heads_total - SEED.heads_left, SEED.heads_total) == (80, 144)


def test_published_flop_limits() -> None:
    dense = SEED.dense()
    assert round(dense.linear_weights / SEED.linear_weights, 2) == 3.82
    assert round(dense.cost.flops(384) / SEED.cost.flops(384), 2) == 3.62
    assert round(dense.cost.flops(128) / SEED.cost.flops(128), 2) == 3.75


def test_counts_are_those_of_the_module(tiny_structure: Structure) -> None:
    module = PackedBertForQuestionAnswering(tiny_structure)
    assert sum(parameter.numel() for parameter in module.parameters()) == tiny_structure.parameters


def test_json_round_trip(tiny_structure: Structure) -> None:
    changed = replace(tiny_structure, hidden_act="relu", head_ids="stored", source_sha256="ab")
    assert Structure.from_json(changed.to_json()) == changed


def broken(structure: Structure, change: dict[str, Any]) -> str:
    return json.dumps({**json.loads(structure.to_json()), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "Invalid enum value 3 - at `schema`"),
        ({"layers": [{"heads": [1]}]}, r"missing required field `ffn_units` - at `layers\[0\]`"),
        ({"colour": "red"}, "unknown: `colour`"),
        ({"layers": [{"heads": [], "ffn_units": [], "ffn_width": 0, "size": 1}]}, r"unknown: `layers\[0\].size`"),
        ({"layers": 3}, "Expected `array`, got `int` - at `layers`"),
        ({"vocab_size": "3"}, "Expected `int`, got `str` - at `vocab_size`"),
        ({"layer_norm_eps": 10**400}, "out of range - at `layer_norm_eps`"),
        ({"hidden_act": "silu"}, "Invalid enum value 'silu' - at `hidden_act`"),
        ({"vocab_size": 10**400, "num_attention_heads": 0}, r"vocab_size 10+\.\.\.0+, num_attention_heads 0"),
        ({"layers": []}, "no model has num_layers 0"),
        ({"num_attention_heads": 5}, "hidden_size 32 for 5 heads"),
        ({"num_attention_heads": 2}, r"no model has heads \[1, 3\] of 2 in layer 0, heads \[0, 1, 2\] of 2 in layer 2"),
        ({"intermediate_size": 5}, r"no model has ffn_units \[.*16\] of 5 in layer 0"),
        (
            {"layers": [{"heads": [2, 1], "ffn_units": [], "ffn_width": 0}]},
            r"no model has heads \[2, 1\] of \d+ in layer 0",
        ),
        ({"layers": [{"heads": [], "ffn_units": [-1], "ffn_width": 1}]}, r"ffn_units \[-1\] of \d+ in layer 0"),
        ({"layers": [{"heads": [], "ffn_units": [1, 2], "ffn_width": 1}]}, "2 FFN units in a width of 1 in layer 0"),
        (
            {"layers": [{"heads": [], "ffn_units": [], "ffn_width": 10**400}]},
            r"0 FFN units in a width of 10+\.\.\.0+ in layer 0",
        ),
    ],
)
def test_a_broken_file_says_what_is_wrong(tiny_structure: Structure, change: dict[str, Any], message: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"^structure.json cannot be read .*{message}.*: pack the checkpoint again"
    ):
        Structure.from_json(broken(tiny_structure, change))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "Expected `object`, got `array`")])
def test_a_file_that_is_no_structure(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Structure.from_json(text)
