"""Names of BERT's files and of the packed module: one to one, for everything that either has."""

from __future__ import annotations

import pytest
from transformers import BertConfig, BertForQuestionAnswering

from densepack_models.families.bert import BERT
from densepack_models.formats.config import config_from_structure, structure_from_config
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.weights import tensor_name
from densepack_runtime.structure import Structure

# Eleven layers and more have numbers of two digits.
CONFIG = BertConfig(
    vocab_size=32, hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=6, layer_norm_eps=1e-7
)


def stored_names() -> list[str]:
    return [name for name, _ in BertForQuestionAnswering(CONFIG).named_parameters()]


def packed_names(structure: Structure) -> list[str]:
    return [tensor_name(name) for name, _ in PackedBertForQuestionAnswering(structure).named_parameters()]


def test_every_parameter_of_transformers_is_translated_both_ways() -> None:
    dense = structure_from_config(CONFIG.to_dict()).dense()
    assert sorted(map(BERT.canonical_name, stored_names())) == sorted(packed_names(dense))
    assert [BERT.file_name(BERT.canonical_name(name)) for name in stored_names()] == stored_names()


def test_every_parameter_of_a_packed_module_is_translated_both_ways(tiny_structure: Structure) -> None:
    """The one of a layer that lost everything, too, which is bare in the module."""
    names = packed_names(tiny_structure)
    stored = [BERT.file_name(name) for name in names]
    assert len(set(stored)) == len(names)
    assert not set(stored) & {name for name in names if not name.startswith("qa_outputs.")}
    assert [BERT.canonical_name(name) for name in stored] == names
    assert BERT.file_name("layer.1.attention.output.bias") in stored


@pytest.mark.parametrize(
    ("stored", "canonical"),
    [
        ("bert.encoder.layer.11.output.dense", "layer.11.ffn.output"),  # a module
        ("bert.encoder.layer.0.attention.output.LayerNorm.gamma", "layer.0.attention_norm.norm.weight"),
        ("bert.embeddings.LayerNorm.beta", "embeddings.norm.bias"),
        ("bert.encoder.layer.3.intermediate.dense.linear.weight", "layer.3.ffn.intermediate.weight"),
        ("bert.encoder.layer.3.output.dense.mask_module.x.0.y", "layer.3.ffn.output.mask_module.x.0.y"),
        ("qa_outputs.bias", "qa_outputs.bias"),
    ],
)
def test_modules_older_spellings_and_what_is_below(stored: str, canonical: str) -> None:
    assert BERT.canonical_name(stored) == canonical


@pytest.mark.parametrize(
    "name", ["classifier.weight", "bert.encoder.layer.x.output.dense.bias", "bert.embeddings.LayerNormal.bias", "bert."]
)
def test_other_names_stay_as_they_are(name: str) -> None:
    assert BERT.canonical_name(name) == BERT.file_name(name) == name


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("bert.embeddings.position_ids", True),
        ("bert.pooler.dense.weight", True),
        ("bert.embeddings.position_embeddings.weight", False),
    ],
)
def test_what_is_ignored(name: str, ignored: bool) -> None:
    assert bool(BERT.ignored.fullmatch(name)) == ignored


def test_a_configuration_becomes_a_structure_and_comes_back() -> None:
    structure = structure_from_config(CONFIG.to_dict() | {"layer_norm_type": "no_norm"})
    assert (structure.num_layers, structure.layer_norm_eps, structure.layer_norm_type) == (12, 1e-7, "no_norm")
    assert structure_from_config(config_from_structure(structure, BERT)) == structure
