"""Every kind of family can be pruned, filled, fine-tuned and cut; a teacher may be of another one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from densepack_models.families.bert import BERT
from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.families.family import Family
from densepack_models.families.roberta import ROBERTA
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.pruning.options import PruningOptions, ShrinkOptions, TrainingOptions
from densepack_models.pruning.recipes import Run, TrainingResult, fill, finetune, prune
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.recipe import shrink
from densepack_models.pruning.teacher import refuse_other_vocabulary
from densepack_runtime.errors import InputError
from tests.models.pruning.tiny_task import tiny_data, tiny_options
from tests.models.tiny_checkpoints import tiny_checkpoint, tokenizer_of

KINDS = pytest.mark.parametrize("family", [ROBERTA, DISTILBERT, ELECTRA], ids=lambda family: family.model_type)
EXACT = 1e-5
WORDS = 400
# Tokenizers of bytes and letters make windows longer than those of the tiny task.
LONGEST = 96


def start_of(family: Family, seed: int = 0) -> Checkpoint:
    checkpoint = tiny_checkpoint(family, seed=seed, vocab_size=WORDS, max_position_embeddings=100)
    return replace(checkpoint, tokenizer_json=tokenizer_of(family, WORDS))


def run_in(folder: Path) -> Run:
    training: TrainingOptions = tiny_options(max_steps=24, token_budget=384, max_length=LONGEST)
    return Run(data=tiny_data(folder, questions=16), state_dir=folder / "state", training=training)


def written(result: TrainingResult, family: Family) -> Checkpoint:
    """What was written, which is of the same family and packs exactly."""
    assert result.packing_difference < EXACT
    checkpoint = load_checkpoint(result.out)
    assert checkpoint.family == family
    return checkpoint


@KINDS
def test_pruned_and_filled(family: Family, tmp_path: Path) -> None:
    start, teacher = start_of(family), start_of(family, seed=1)
    pruning = PruningOptions(attention_block=(4, 4), target_density=0.5, init="fisher", fisher_batches=4)
    result = prune(start, tmp_path / "pruned", teacher, run_in(tmp_path), pruning)
    assert result.linear_density < 0.7
    pruned = written(result, family)
    filled = fill(pruned, tmp_path / "filled", teacher, run_in(tmp_path))
    assert filled.linear_density == result.linear_density
    written(filled, family)


@KINDS
def test_every_tensor_is_trained(family: Family, tmp_path: Path) -> None:
    """All but the rows of embeddings that no token of the task has."""
    start = start_of(family)
    checkpoint = written(finetune(start, tmp_path / "out", None, run_in(tmp_path)), family)
    assert {name for name, tensor in checkpoint.tensors.items() if torch.equal(tensor, start.tensors[name])} == set()


@KINDS
def test_cut_without_training(family: Family, tmp_path: Path) -> None:
    options = ShrinkOptions(questions=16, token_budget=384, device="cpu", max_length=LONGEST, doc_stride=8)
    [result] = shrink(
        start_of(family), {tmp_path / "out": Goal("density", 0.5)}, tiny_data(tmp_path, questions=16), options
    )
    assert result.packing_difference < EXACT
    assert 0.3 < result.linear_density <= 0.5
    assert load_checkpoint(tmp_path / "out").family == family


def test_a_teacher_of_another_family_with_the_same_tokenizer(tmp_path: Path) -> None:
    start, teacher = start_of(DISTILBERT), start_of(BERT, seed=1)
    result = finetune(start, tmp_path / "out", teacher, run_in(tmp_path))
    assert written(result, DISTILBERT).blank.token_types == "none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "another vocabulary"),
        ({"normalizer": None}, "splits text otherwise .normalizer None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "splits text otherwise .pre_tokenizer {'type': 'Whitespace'}"),
        ({"post_processor": None}, r"joins a question and a context otherwise .a a, the model's is \[CLS\] a \[SEP\]"),
    ],
)
def test_a_teacher_that_sees_other_tokens_is_refused(change: dict[str, object], message: str) -> None:
    student, teacher = start_of(DISTILBERT), start_of(BERT if change else ROBERTA)
    text = json.dumps(json.loads(teacher.tokenizer_json) | change)
    with pytest.raises(InputError, match=f"the teacher tiny (has )?{message}"):
        refuse_other_vocabulary(replace(teacher, tokenizer_json=text), student)
