"""What packing would leave of masks, and steering to a wanted density."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densepack_models.families.bert import BERT
from densepack_models.formats.replica import random_tensors
from densepack_models.pruning.density import Steering, final_density, masked_density, refuse_unreachable
from densepack_models.pruning.filling import NOISE, fill_zeros
from densepack_models.pruning.masked import MaskSettings
from densepack_models.pruning.schedule import Schedule
from densepack_models.pruning.student import Student, packed_student, student_from_checkpoint
from densepack_runtime.errors import InputError
from densepack_runtime.structure import LayerStructure, Structure
from tests.models.pruning.tiny_task import tiny_start


def student(**changes: Any) -> Student:
    return student_from_checkpoint(tiny_start(), MaskSettings(**{"attention_block": (4, 4)} | changes))


def scatter(masked: Student, seed: int, centre: float = -2.2) -> None:
    assert masked.masks is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, grid in masked.masks.named_grids():
            assert grid.scores is not None
            grid.scores.copy_(torch.randn(grid.scores.shape, generator=generator) + centre)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    centre=st.sampled_from([-5.0, -3.0, -2.2, 0.0]),
    block=st.sampled_from([(4, 4), (8, 32), (16, 8), (2, 32), None]),
)
def test_it_is_the_density_of_the_packed_module(seed: int, centre: float, block: tuple[int, int] | None) -> None:
    masked = student(attention_block=block)
    scatter(masked, seed, centre)
    found, packed = final_density(masked), packed_student(masked).structure
    assert found.heads == packed.heads_left
    assert found.units == sum(layer.ffn_width for layer in packed.layers)
    assert found.linear_density == pytest.approx(packed.linear_density)


def test_without_masks_it_is_that_of_the_structure() -> None:
    assert masked_density(student_from_checkpoint(tiny_start())).linear_density == 1


@pytest.mark.parametrize("method", ["sigmoid", "threshold", "topk"])
@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_frozen_masks_have_the_target(method: str, target: float) -> None:
    """The largest reachable density that is not above it: of scores, at most two heads below; a kept share takes one
    head from all layers at once.
    """
    masked = student(method=method, attention_block=(8, 32))
    scatter(masked, 0)
    schedule = Schedule(100, 5, last_threshold=0.25 if method == "topk" else 0.1)
    steering = Steering(masked, schedule, target)
    for step in (0, 10, 40, 80):
        assert abs(steering.update(step)) <= 50 * schedule.last_regularisation
    assert masked.masks is not None
    assert masked.masks.frozen
    head = 4 * 8 * 32 / masked.structure.linear_weights
    coarse = 4 if method == "topk" else 2
    assert target - coarse * head <= final_density(masked).linear_density <= target
    before = final_density(masked)
    scatter(masked, 1)
    assert steering.update(90) == 0
    assert final_density(masked) == before


def test_lambda_pushes_the_way_that_is_missing() -> None:
    masked = student()
    steering = Steering(masked, Schedule(100, 5), 0.5)
    scatter(masked, 0, centre=3.0)  # far too many pass
    assert steering.update(40) > 0
    scatter(masked, 0, centre=-6.0)  # far too few
    assert steering.update(50) < 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (1.0, "a density of 100 % cannot be reached by pruning: the model has 100 %"),
        (0.05, "a density of 5 % is out of reach: the floor on survivors.* leaves .* %"),
    ],
)
def test_a_density_out_of_reach(target: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_unreachable(student(least_share=0.4), target)


def test_filling_touches_zeros_of_matrices_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator) + 0.5
    holes = torch.rand(64, 64, generator=generator) < 0.3
    name = "layer.0.attention.query.weight"
    tensors = {
        name: weight.masked_fill(holes, 0),
        "layer.0.ffn.output.weight": torch.zeros(4, 4),
        "layer.0.ffn.output.bias": torch.zeros(4),
        "embeddings.word.weight": torch.zeros(4, 4),
    }
    filled, revived = fill_zeros(tensors, seed=3)
    assert revived == int(holes.sum())
    assert torch.equal(filled[name][~holes], tensors[name][~holes])
    values = filled[name][holes]
    assert float(values.mean()) == pytest.approx(float(tensors[name].mean()), abs=0.002)
    assert float(values.std()) == pytest.approx(0.01 * float(tensors[name].std()), rel=0.1)
    for other in tensors.keys() - {name}:
        assert filled[other] is tensors[other]
    assert torch.equal(fill_zeros(tensors, seed=3)[0][name], filled[name])
    assert not torch.equal(fill_zeros(tensors, seed=4)[0][name], filled[name])


def test_noise_is_drawn_in_the_order_of_names_in_files() -> None:
    """As it always was: another order would give every filled model other values."""
    structure = Structure(128, 40, 2, 32, 4, 16, (LayerStructure((0, 1), (0, 1), 2),) * 12)
    tensors = {name: tensor.round(decimals=2) for name, tensor in random_tensors(structure).items()}
    filled, _ = fill_zeros(tensors, seed=3)
    generator = torch.Generator().manual_seed(3)
    changed = [name for name in tensors if not filled[name].equal(tensors[name])]
    assert len(changed) == 12 * 6
    for name in sorted(changed, key=BERT.file_name):
        tensor = tensors[name]
        values = tensor.mean() + NOISE * tensor.std() * torch.randn(tensor.shape, generator=generator)
        assert torch.equal(filled[name], torch.where(tensor == 0, values, tensor)), name
