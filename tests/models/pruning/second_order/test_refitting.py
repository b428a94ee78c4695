"""Fitting what stays layer by layer, against a brute-force fit and against the states that it aims at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from densepack_models.packed_bert import ConstantUpdate, PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.second_order import refitting
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.calibration import calibration_windows
from densepack_models.pruning.second_order.cut import LayerPlan, Plan
from densepack_models.pruning.second_order.refitting import refit_layerwise
from densepack_runtime.host.story import Story
from tests.models.pruning.second_order.test_shrink import OPTIONS, surgeon_of
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_start

Batch = dict[str, Tensor]


@pytest.fixture
def batches(tmp_path: Path) -> list[Batch]:
    windows = calibration_windows(tiny_start(), tiny_data(tmp_path), OPTIONS, Story.silent())
    found = TrainingBatches(windows, token_budget=256, seed=0)
    return [found[place] for place in range(len(found))]


def cut_to(density: float, folder: Path) -> PackedBertForQuestionAnswering:
    surgeon, goal = surgeon_of(tiny_start(), folder), Goal("density", density)
    prices = goal.prices(surgeon.whole)
    return surgeon.cut(surgeon.plan(prices, goal.limit(prices, surgeon.whole)), tiny_start().config)


def cut_as(plan: Plan, folder: Path) -> PackedBertForQuestionAnswering:
    return surgeon_of(tiny_start(), folder).cut(plan, tiny_start().config)


def before_norms(model: PackedBertForQuestionAnswering, batches: list[Batch]) -> list[Tensor]:
    """Of real tokens, what goes into every LayerNorm behind a block, [tokens, H], first block first."""
    seen: list[list[Tensor]] = [[] for _ in range(2 * len(model.layer))]
    norms = [norm for layer in model.layer for _, norm in refitting._blocks(layer)]
    handles = [
        norm.register_forward_pre_hook(lambda _, given, into=into: into.append(given[0] + given[1]))
        for norm, into in zip(norms, seen, strict=True)
    ]
    with torch.inference_mode():
        for batch in batches:
            model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    for handle in handles:
        handle.remove()
    real = torch.cat([batch["attention_mask"].flatten() for batch in batches]).bool()
    return [torch.cat([part.flatten(0, 1) for part in parts])[real].double() for parts in seen]


def lacking(
    dense: PackedBertForQuestionAnswering, cut: PackedBertForQuestionAnswering, batches: list[Batch]
) -> list[float]:
    """Mean square of what the states before the norms lack, block by block."""
    pairs = zip(before_norms(dense, batches), before_norms(cut, batches), strict=True)
    return [float((whole - left).square().mean()) for whole, left in pairs]


def test_the_state_before_every_norm_comes_nearer(batches: list[Batch], tmp_path: Path) -> None:
    dense, cut = pack(tiny_start()), cut_to(0.4, tmp_path)
    once = lacking(dense, cut, batches)
    refit_layerwise(dense, cut, batches)
    ours = lacking(dense, cut, batches)
    assert all(after <= before * (1 + 1e-6) for before, after in zip(once, ours, strict=True))
    assert ours[-1] < 0.9 * once[-1]


def test_every_projection_is_the_least_squares_fit(
    batches: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without damping nothing is left that its inputs could still explain, nor a mean."""
    monkeypatch.setattr(refitting, "damped", lambda covariance: covariance)
    dense, cut = pack(tiny_start()), cut_to(0.5, tmp_path)
    refit_layerwise(dense, cut, batches)
    inputs: dict[int, list[Tensor]] = {}
    blocks = [block for layer in cut.layer for block, _ in refitting._blocks(layer)]
    for place, block in enumerate(blocks):
        assert not isinstance(block, ConstantUpdate)
        block.output.register_forward_pre_hook(
            lambda _, given, place=place: inputs.setdefault(place, []).append(given[0].flatten(0, 1))
        )
    pairs = zip(before_norms(dense, batches), before_norms(cut, batches), strict=True)
    real = torch.cat([batch["attention_mask"].flatten() for batch in batches]).bool()
    for place, (whole, left) in enumerate(pairs):
        residue = whole - left
        given = torch.cat(inputs[place])[real].double()
        assert residue.mean(0).abs().max() < 1e-5
        assert (residue.T @ (given - given.mean(0)) / len(given)).abs().max() < 1e-5


def test_what_lost_nothing_keeps_its_bits(batches: list[Batch], tmp_path: Path) -> None:
    """Neither a model that was not cut, nor the layers before the first one that was."""
    dense = pack(tiny_start())
    heads, units = tuple(range(4)), tuple(range(16))
    whole = LayerPlan(heads, units, 0.0, 0.0)
    cut = cut_as(Plan((whole, LayerPlan(heads[:2], units, 0.0, 0.0))), tmp_path)
    before = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
    refit_layerwise(dense, cut, batches)
    changed = {name for name, tensor in cut.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"layer.1.{part}.output.{kind}" for part in ("attention", "ffn") for kind in ("weight", "bias")}


def test_a_block_that_lost_everything_gets_the_mean(batches: list[Batch], tmp_path: Path) -> None:
    dense = pack(tiny_start())
    whole = LayerPlan(tuple(range(4)), tuple(range(16)), 0.0, 0.0)
    cut = cut_as(Plan((LayerPlan((), tuple(range(16)), 0.0, 0.0), whole)), tmp_path)
    refit_layerwise(dense, cut, batches)
    residue = before_norms(dense, batches)[0] - before_norms(cut, batches)[0]
    assert residue.mean(0).abs().max() < 1e-5


def test_padding_does_not_count(batches: list[Batch], tmp_path: Path) -> None:
    dense = pack(tiny_start())
    wider = [
        {
            name: torch.nn.functional.pad(one, (0, LONGEST - one.shape[1])) if one.ndim == 2 else one
            for name, one in batch.items()
        }
        for batch in batches
    ]
    cuts = [cut_to(0.4, tmp_path) for _ in range(2)]
    refit_layerwise(dense, cuts[0], batches)
    refit_layerwise(dense, cuts[1], wider)
    for one, other in zip(cuts[0].state_dict().values(), cuts[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
