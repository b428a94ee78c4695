"""Two hundred steps on a tiny task: movement beats magnitude at equal density, and the density follows λ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.fisher import gate_importance
from densepack_models.pruning.options import PRESETS
from densepack_models.pruning.recipes import Run, TrainingResult, fill, finetune, prune
from densepack_models.pruning.student import student_from_checkpoint
from densepack_models.pruning.training_data import make_windows
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_options, tiny_start

STEPS = 200


@dataclass(frozen=True, slots=True)
class Task:
    """A teacher that solves the task, and the same function with weights whose size says the wrong thing."""

    data: SquadDataset
    teacher: Checkpoint
    misleading: Checkpoint


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    data = tiny_data(folder, 128)
    run = Run(data, folder / "state", tiny_options(max_steps=300, learning_rate=5e-3), eval_data=data)
    result = finetune(tiny_start(hidden_act="relu", intermediate_size=32), folder / "dense", None, run)
    assert result.score is not None
    assert result.score.f1 > 99
    teacher = load_checkpoint(folder / "dense")
    return Task(data, teacher, enlarge_the_useless(teacher, data))


def enlarge_the_useless(checkpoint: Checkpoint, data: SquadDataset) -> Checkpoint:
    """In every layer 60 % of the units, the least important ones, get rows 30 times as large and columns 30 times as
    small: with relu, the same function.
    """
    windows = make_windows(
        data.questions, Windower(checkpoint.tokenizer_json, max_length=LONGEST, doc_stride=LONGEST // 4)
    )
    batches = TrainingBatches(windows, token_budget=256, seed=0)
    importance = gate_importance(student_from_checkpoint(checkpoint), [batches[i] for i in range(len(batches))])
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    for index, layer in enumerate(importance):
        useless = layer.units.argsort()[: len(layer.units) * 6 // 10]
        tensors[f"layer.{index}.ffn.intermediate.weight"][useless] *= 30
        tensors[f"layer.{index}.ffn.intermediate.bias"][useless] *= 30
        tensors[f"layer.{index}.ffn.output.weight"][:, useless] /= 30
    return replace(checkpoint, tensors=tensors)


def pruned(task: Task, out: Path, preset: str, **changes: Any) -> TrainingResult:
    options = replace(PRESETS[preset], **changes)
    run = Run(
        task.data,
        out.with_name(f"{out.name}.state"),
        tiny_options(max_steps=STEPS, learning_rate=3e-4),
        eval_data=task.data,
    )
    return prune(task.misleading, out, task.teacher, run, options)


def f1(result: TrainingResult) -> float:
    assert result.score is not None
    return result.score.f1


def test_movement_beats_magnitude_at_equal_density(task: Task, tmp_path: Path) -> None:
    same: dict[str, Any] = {"attention_block": None, "target_density": 0.5}
    magnitude = pruned(task, tmp_path / "magnitude", "magnitude", **same)
    movement = pruned(task, tmp_path / "movement", "struct", score_learning_rate=5e-2, **same)
    one_shot = pruned(task, tmp_path / "fisher", "struct", score_learning_rate=5e-2, init="fisher", **same)
    for result in (magnitude, movement, one_shot):
        assert 0.3 < result.linear_density <= 0.5  # at most the target, at least all but one head or a few units
    assert f1(movement) > f1(magnitude) + 10
    assert f1(one_shot) > f1(magnitude) + 10


def test_density_follows_lambda(task: Task, tmp_path: Path) -> None:
    results = [
        pruned(
            task,
            tmp_path / f"{regularisation}",
            "hybrid",
            attention_block=(4, 4),
            regularisation=regularisation,
            score_learning_rate=5e-2,
        )
        for regularisation in (0.0, 5.0, 100.0)
    ]
    densities = [result.linear_density for result in results]
    assert densities[0] > densities[1] + 0.05
    assert densities[1] > densities[2] + 0.05


def test_filling_revives_zeros_in_the_same_shape(task: Task, tmp_path: Path) -> None:
    first = pruned(
        task, tmp_path / "pruned", "hybrid", attention_block=(4, 4), target_density=0.4, score_learning_rate=5e-2
    )
    start = load_checkpoint(first.out)
    run = Run(task.data, tmp_path / "state", tiny_options(max_steps=100, learning_rate=3e-4), eval_data=task.data)
    filled = fill(start, tmp_path / "filled", task.teacher, run)
    assert (filled.heads, filled.parameters) == (first.heads, first.parameters)
    assert filled.linear_density == first.linear_density
    assert filled.revived is not None
    assert filled.revived > 0
    assert f1(filled) >= f1(first)
    written = load_checkpoint(filled.out)
    assert written.heads == start.heads
    zeros = [int((checkpoint.tensors["layer.0.attention.query.weight"] == 0).sum()) for checkpoint in (start, written)]
    assert zeros[0] > zeros[1] == 0
    torch.testing.assert_close(filled.packing_difference, 0.0, rtol=0, atol=1e-4)
