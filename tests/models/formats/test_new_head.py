"""Pretrained encoders, as transformers saves them, become the start of a fine-tuning; nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.formats.writer import write_tokenizer_files
from densepack_models.reference import reference_module
from densepack_runtime.errors import CheckpointError
from tests.models.pruning.tiny_task import LONGEST, random_inputs, tiny_tokenizer

ENCODERS = (BertModel, BertForMaskedLM, BertForPreTraining)
# A head of 2 x 32 draws: its standard deviation is within 0.02 ± 0.01 but once in 10^7 times.
SPREAD_TOLERANCE = 0.01


def save(kind: type[Any], folder: Path, **changes: Any) -> Any:
    """A tiny random model of a class of transformers, saved by transformers, with the tokenizer of the tiny task."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
    }
    model = kind(BertConfig(vocab_size=50, max_position_embeddings=LONGEST, **sizes, **changes)).eval()
    model.save_pretrained(folder)
    write_tokenizer_files(folder, tiny_tokenizer(), LONGEST)
    (folder / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    return model


def rewrite(folder: Path, rename: Any) -> None:
    """The same weights under other names."""
    path = folder / "model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def hidden_states(model: Any, *inputs: torch.Tensor) -> torch.Tensor:
    encoder = model if isinstance(model, BertModel) else model.bert
    ids, mask, types = inputs
    with torch.inference_mode():
        states: torch.Tensor = encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    return states


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.__name__)
def test_an_encoder_is_what_it_was_under_a_new_head(kind: type[Any], tmp_path: Path) -> None:
    """The logits are transformers' hidden states times the head that the seed gives."""
    model = save(kind, tmp_path / "encoder")
    checkpoint = load_checkpoint(tmp_path / "encoder", head_seed=3)
    [note] = checkpoint.notes
    assert note == f"{kind.__name__} has no question-answering head: it is new, drawn with seed 3"
    head = checkpoint.tensors["qa_outputs.weight"]
    assert checkpoint.tensors["qa_outputs.bias"].tolist() == [0, 0]
    assert float(head.std()) == pytest.approx(0.02, abs=SPREAD_TOLERANCE)
    inputs = random_inputs(50)
    with torch.inference_mode():
        ours = torch.stack(reference_module(checkpoint)(*inputs), -1)
    torch.testing.assert_close(ours, hidden_states(model, *inputs) @ head.T, atol=1e-6, rtol=0)
    assert checkpoint.config["architectures"] == ["BertForQuestionAnswering"]


def test_the_seed_decides_about_the_head(tmp_path: Path) -> None:
    save(BertModel, tmp_path / "encoder", initializer_range=0.5)

    def head(seed: int) -> torch.Tensor:
        return load_checkpoint(tmp_path / "encoder", head_seed=seed).tensors["qa_outputs.weight"]

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
    assert float(head(0).std()) > 0.3


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.__name__)
def test_names_with_and_without_the_prefix(kind: type[Any], tmp_path: Path) -> None:
    save(kind, tmp_path / "encoder")
    before = load_checkpoint(tmp_path / "encoder", head_seed=0).tensors
    if kind is BertModel:
        rewrite(tmp_path / "encoder", lambda name: f"bert.{name}")
    else:
        rewrite(tmp_path / "encoder", lambda name: name.removeprefix("bert."))
    after = load_checkpoint(tmp_path / "encoder", head_seed=0).tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_head_that_is_there_stays(tmp_path: Path) -> None:
    save(BertForQuestionAnswering, tmp_path / "whole")

    def read(seed: int | None) -> Checkpoint:
        return load_checkpoint(tmp_path / "whole", head_seed=seed)

    assert read(0).notes == read(None).notes == ()
    assert torch.equal(read(0).tensors["qa_outputs.weight"], read(None).tensors["qa_outputs.weight"])


def test_without_a_seed_an_encoder_is_refused_with_the_cure(tmp_path: Path) -> None:
    save(BertModel, tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="has no question-answering head: densepack finetune trains one"):
        load_checkpoint(tmp_path / "encoder")


def test_another_fine_tuned_model_is_refused(tmp_path: Path) -> None:
    save(BertForSequenceClassification, tmp_path / "sorts")
    with pytest.raises(CheckpointError, match="BertForSequenceClassification in sorts has no question-answering head"):
        load_checkpoint(tmp_path / "sorts", head_seed=0)


def test_what_is_missing_below_the_head_is_told(tmp_path: Path) -> None:
    save(BertModel, tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["embeddings.word_embeddings.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="bert.embeddings.word_embeddings.weight is missing"):
        load_checkpoint(tmp_path / "encoder", head_seed=0)


@pytest.mark.parametrize("spread", [-1, "wide", True, None])
def test_a_spread_that_is_none(tmp_path: Path, spread: object) -> None:
    save(BertModel, tmp_path / "encoder")
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"initializer_range": spread}))
    with pytest.raises(CheckpointError, match="initializer_range is"):
        load_checkpoint(tmp_path / "encoder", head_seed=0)
