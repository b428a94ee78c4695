"""The yardstick takes of config.json what changes the numbers, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import logit_difference, pack
from densepack_models.reference import reference_module
from tests.command_line import CommandLine
from tests.models.formats.planted_checkpoints import UNEVEN, Planted

# What float32 sums in another order differ by at this size.
ROUNDING = 1e-6
HARMLESS: list[dict[str, Any]] = [
    {"return_dict": False},
    {"id2label": {"0": "A", "1": "B", "2": "C"}, "label2id": {"A": 0, "B": 1, "C": 2}},
    {"num_labels": 7},
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": "nothing_like_it"},
    {"chunk_size_feed_forward": 7},
    {"hidden_dropout_prob": None, "attention_probs_dropout_prob": None, "classifier_dropout": None},
    {"hidden_dropout_prob": 0.9, "attention_probs_dropout_prob": 3},
    {"output_attentions": True, "output_hidden_states": True},
    {"initializer_range": "wide", "use_cache": None, "tie_word_embeddings": False, "gradient_checkpointing": True},
    {"problem_type": "no_such_type", "torch_dtype": "float8", "dtype": 3},
    {"pad_token_id": None},
    {"pad_token_id": 127},
    {"pad_token_id": -1},
]


@pytest.mark.parametrize("setting", HARMLESS, ids=str)
def test_settings_that_do_not_change_the_numbers_are_ignored(tmp_path: Path, setting: dict[str, Any]) -> None:
    planted = Planted(UNEVEN)
    plain = load_checkpoint(planted.write(tmp_path / "plain"))
    planted.config |= setting
    odd = load_checkpoint(planted.write(tmp_path / "odd"))
    ids, ones = torch.arange(1, 21).view(2, 10), torch.ones(2, 10, dtype=torch.long)
    with torch.inference_mode():
        for found, wanted in zip(
            reference_module(odd)(ids, ones, ones), reference_module(plain)(ids, ones, ones), strict=True
        ):
            assert torch.equal(found, wanted)
    assert logit_difference(odd, pack(odd)) < ROUNDING


def test_a_whole_number_is_an_eps(tmp_path: Path) -> None:
    """Against transformers' own module with the same number as a float."""
    planted = Planted(UNEVEN, "full")
    planted.config["layer_norm_eps"] = 1
    checkpoint = load_checkpoint(planted.write(tmp_path / "c"))
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    settings = {name: planted.config[name] for name in (*sizes, "max_position_embeddings", "type_vocab_size")}
    theirs = BertForQuestionAnswering(BertConfig(**settings, layer_norm_eps=1.0))
    theirs.train(False)
    theirs.load_state_dict(planted.tensors)
    ids, ones = torch.arange(1, 21).view(2, 10), torch.ones(2, 10, dtype=torch.long)
    with torch.inference_mode():
        wanted = theirs(input_ids=ids, attention_mask=ones, token_type_ids=ones).start_logits
        assert torch.equal(reference_module(checkpoint)(ids, ones, ones)[0], wanted)
    assert logit_difference(checkpoint, pack(checkpoint)) < ROUNDING


def test_odd_settings_reach_pack_as_nothing(tmp_path: Path, densepack: CommandLine) -> None:
    planted = Planted(UNEVEN)
    for setting in HARMLESS[:8]:
        planted.config |= setting
    done = densepack("pack", planted.write(tmp_path / "odd"), tmp_path / "packed")
    assert done.code == 0, done.err


@pytest.mark.parametrize("setting", [{"pad_token_id": 99999}, {"layer_norm_eps": 0}])
def test_settings_that_no_model_can_have_are_refused_by_every_command(
    tmp_path: Path, densepack: CommandLine, setting: dict[str, Any]
) -> None:
    planted = Planted(UNEVEN)
    planted.config |= setting
    folder = planted.write(tmp_path / "odd")
    for command in (("inspect", folder), ("pack", folder, tmp_path / "packed"), ("build", folder, tmp_path / "bundle")):
        done = densepack(*command)
        assert done.code == 1
        assert len(done.error_lines) == 1
        assert "config.json cannot be used" in done.error_lines[0]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.complex64, torch.bool])
def test_weights_in_types_that_are_no_floats_are_refused(
    tmp_path: Path, densepack: CommandLine, dtype: torch.dtype
) -> None:
    for weights in ("safetensors", "bin"):
        planted = Planted(UNEVEN)
        name = "bert.encoder.layer.0.attention.self.query.weight"
        planted.tensors[name] = planted.tensors[name].to(dtype)
        done = densepack("pack", planted.write(tmp_path / weights, weights), tmp_path / "packed")
        assert done.code == 1
        assert f"{name} is of type {str(dtype).removeprefix('torch.')}, dense floats of 16 to 64 bits" in done.err
