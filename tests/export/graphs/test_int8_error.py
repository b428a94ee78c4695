"""Which products bear INT8 with fixed scales: measured on real tokens, and no more is claimed than was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import densepack_export.graphs.int8_error as module
from densepack_export.graphs.int8_error import best_ranges, measure_int8_ranges
from densepack_export.graphs.onnx_export import random_batch
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.errors import InputError
from densepack_runtime.sessions.openvino_int8 import in_steps, is_worth_it, quantised
from densepack_runtime.sessions.session import Batch
from densepack_runtime.structure import LayerStructure, Structure
from tests.export.conftest import random_module

EVERYTHING = 1e9
WIDE = Structure(
    vocab_size=30522,
    max_position_embeddings=512,
    type_vocab_size=2,
    hidden_size=96,
    num_attention_heads=4,
    intermediate_size=192,
    layers=(
        LayerStructure(heads=(0, 1, 2, 3), ffn_units=tuple(range(130)), ffn_width=130),
        LayerStructure(heads=(0, 1, 3), ffn_units=tuple(range(70)), ffn_width=70),
    ),
)


def batches_for(structure: Structure) -> list[Batch]:
    return [random_batch(structure, 3, 17, seed=1), random_batch(structure, 2, 40, seed=2)]


@pytest.fixture(scope="module")
def packed() -> PackedBertForQuestionAnswering:
    return random_module(WIDE)


def test_ranges_hold_what_was_seen(packed: PackedBertForQuestionAnswering) -> None:
    """Every value of a real token, divided by its range, lies between -1 and 1; padding does not count."""
    ranges = measure_int8_ranges(packed, batches_for(WIDE), limit=EVERYTHING)
    linear = {name: part for name, part in packed.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(ranges) == {name for name, part in linear.items() if is_worth_it(*part.weight.shape)}
    seen: dict[str, float] = {}
    for name in ranges:

        def look(_: torch.nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
            values = inputs[0][torch.from_numpy(batch.attention_mask.astype(bool))].numpy()
            seen[name] = max(seen.get(name, 0.0), float(np.abs(values / ranges[name]).max()))

        linear[name].register_forward_pre_hook(look)
    with torch.inference_mode():
        for batch in batches_for(WIDE):
            packed(*map(torch.from_numpy, batch.arrays().values()))
    for part in linear.values():
        part._forward_pre_hooks.clear()
    assert seen.keys() == ranges.keys()
    assert all(0.9 < most <= 1 + 1e-6 for most in seen.values())


def test_query_key_and_value_share_theirs(packed: PackedBertForQuestionAnswering) -> None:
    ranges = measure_int8_ranges(packed, batches_for(WIDE), limit=EVERYTHING)
    query, key, value, output = (ranges[f"layer.0.attention.{name}"] for name in ("query", "key", "value", "output"))
    np.testing.assert_array_equal(query, key)
    np.testing.assert_array_equal(query, value)
    assert not np.array_equal(query, output)
    assert not np.array_equal(query, ranges["layer.1.attention.query"])


def test_products_that_err_more_are_left_out(
    packed: PackedBertForQuestionAnswering, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []

    def noted(*given: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        ranges, error = best_ranges(*given)
        errors.append(error)
        return ranges, error

    monkeypatch.setattr(module, "best_ranges", noted)
    everything = measure_int8_ranges(packed, batches_for(WIDE), limit=EVERYTHING)
    assert len(errors) == 4 * len(WIDE.layers)  # query, key and value together, and three more
    worst = max(errors)
    found = measure_int8_ranges(packed, batches_for(WIDE), limit=np.nextafter(worst, 0))
    assert 0 < len(found) < len(everything)
    assert len(measure_int8_ranges(packed, batches_for(WIDE), limit=worst)) == len(everything)
    assert not measure_int8_ranges(packed, batches_for(WIDE), limit=0.0)


def test_the_error_is_that_of_the_product() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 96)).astype(np.float32)
    weights = rng.standard_normal((40, 96)).astype(np.float32)
    ranges, error = best_ranges(rows, np.abs(rows).max(axis=0), weights)
    steps, scales = quantised(weights * ranges)
    exact = rows @ weights.T
    assert error == pytest.approx(
        np.linalg.norm(in_steps(rows / ranges) @ (steps * scales).T - exact) / np.linalg.norm(exact)
    )
    assert 0.001 < error < 0.02


def test_a_few_large_inputs_do_not_take_the_bits_of_the_rest() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((200, 96)).astype(np.float32)
    rows[:, [3, 50]] *= 100
    weights = rng.standard_normal((40, 96)).astype(np.float32)
    weights[:, [3, 50]] /= 100
    largest = np.abs(rows).max(axis=0)
    exact = rows @ weights.T
    _, error = best_ranges(rows, largest, weights)
    steps, scales = quantised(weights * largest.max())
    one_range = np.linalg.norm(in_steps(rows / largest.max()) @ (steps * scales).T - exact) / np.linalg.norm(exact)
    assert error < 0.02 < 10 * error < one_range


def test_tokens_far_larger_than_the_rest_are_an_error() -> None:
    """Nothing that is divided by one range for all tokens helps there."""
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((400, 96)) * rng.lognormal(0, 2, (400, 1))).astype(np.float32)
    usual = np.sort(np.abs(rows).max(axis=1))[: len(rows) // 2].max()
    weights = rng.standard_normal((40, 96)).astype(np.float32)
    _, error = best_ranges(rows[np.abs(rows).max(axis=1) <= usual], np.abs(rows).max(axis=0), weights)
    assert error > 0.05


def test_inputs_that_were_never_seen_have_a_range_nevertheless() -> None:
    rows = np.zeros((5, 64), np.float32)
    ranges, error = best_ranges(rows, np.zeros(64, np.float32), np.ones((16, 64), np.float32))
    assert error == 0
    assert np.isfinite(ranges).all()
    assert (ranges > 0).all()


def test_nothing_to_measure_on(packed: PackedBertForQuestionAnswering) -> None:
    with pytest.raises(InputError, match="nothing to measure INT8 ranges on: pass at least one batch"):
        measure_int8_ranges(packed, [])
    assert not any(part._forward_pre_hooks for part in packed.modules())
