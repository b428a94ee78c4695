"""Packing is exact: every rule on its own, all of them mixed, against transformers' own module at full size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from densepack_models.families import FAMILIES
from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.tensors import HEAD_AXES, head_rows
from densepack_models.packed_bert import PackedBertForQuestionAnswering, query_scale
from densepack_models.packing import analyse, logit_difference, pack, pack_with_report
from densepack_models.weights import tensors_from_module
from densepack_runtime.errors import InputError
from tests.models.tiny_checkpoints import tiny_checkpoint

# What float64 rounding gives on these sizes is below 1e-13; the issue's own limits are kept.
FP64_TOLERANCE = 1e-10
FP32_TOLERANCE = 1e-5
# A rule applied wrongly moves logits of these models by far more than rounding does.
VISIBLE = 1e-4

ATTENTION, OUTPUT = "layer.1.attention", "layer.1.attention.output"
FIRST, SECOND = "layer.1.ffn.intermediate", "layer.1.ffn.output"
HEAD = 8  # head size of the tiny checkpoint
HEAD_2 = slice(2 * HEAD, 3 * HEAD)


def zero(tensors: dict[str, Tensor], name: str, index: object) -> None:
    tensors[name] = tensors[name].clone()
    tensors[name][index] = 0  # type: ignore[index]


def dead_output(tensors: dict[str, Tensor]) -> None:
    zero(tensors, f"{OUTPUT}.weight", (slice(None), HEAD_2))


def dead_value(tensors: dict[str, Tensor]) -> None:
    zero(tensors, f"{ATTENTION}.value.weight", HEAD_2)


def dead_query(tensors: dict[str, Tensor]) -> None:
    zero(tensors, f"{ATTENTION}.query.weight", HEAD_2)
    zero(tensors, f"{ATTENTION}.query.bias", HEAD_2)


def dead_query_weight(tensors: dict[str, Tensor]) -> None:
    zero(tensors, f"{ATTENTION}.query.weight", HEAD_2)


def dead_key(tensors: dict[str, Tensor]) -> None:
    zero(tensors, f"{ATTENTION}.key.weight", HEAD_2)


def second(packed: PackedBertForQuestionAnswering) -> Any:
    """The layer that faults are planted in (ModuleList knows only modules)."""
    return packed.layer[1]


def planted(plant: Callable[[dict[str, Tensor]], None]) -> Checkpoint:
    checkpoint = tiny_checkpoint(seed=3)
    tensors = dict(checkpoint.tensors)
    plant(tensors)
    return replace(checkpoint, tensors=tensors)


def difference(checkpoint: Checkpoint, **options: bool | int) -> float:
    packed = pack(checkpoint, dtype=torch.float64, **options)  # type: ignore[arg-type]  # bool and int as they come
    return logit_difference(checkpoint, packed)


@pytest.mark.parametrize("plant", [dead_output, dead_value], ids=lambda plant: plant.__name__)
def test_dead_head_is_removed_exactly(plant: Callable[[dict[str, Tensor]], None]) -> None:
    checkpoint = planted(plant)
    packed, report = pack_with_report(checkpoint, dtype=torch.float64)
    assert packed.structure.layers[1].heads == (0, 1, 3)
    assert report.layers[1].heads_removed == (2,)
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE


def test_constant_of_a_head_without_values_is_folded() -> None:
    checkpoint = planted(dead_value)
    packed, report = pack_with_report(checkpoint, dtype=torch.float64)
    assert report.layers[1].folded_heads == (2,)
    with torch.no_grad():  # without the fold, as nn_pruning removes it, the logits move
        second(packed).attention.output.bias.copy_(checkpoint.tensors[f"{OUTPUT}.bias"])
    assert logit_difference(checkpoint, packed) > VISIBLE


@pytest.mark.parametrize("plant", [dead_query, dead_query_weight, dead_key], ids=lambda plant: plant.__name__)
def test_query_dead_head_is_kept_and_reported(plant: Callable[[dict[str, Tensor]], None]) -> None:
    checkpoint = planted(plant)
    packed, report = pack_with_report(checkpoint, dtype=torch.float64)
    assert packed.structure.layers[1].heads == (0, 1, 2, 3)
    assert report.layers[1].query_dead_heads == (2,)
    assert any("still average" in value for _, value in report.totals())
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE
    assert difference(checkpoint, drop_query_dead_heads=True) > VISIBLE


def test_key_bias_never_matters() -> None:
    checkpoint = tiny_checkpoint(seed=5)
    packed = pack(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        second(packed).attention.key.bias.add_(7.0)
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE


def test_unit_without_output_is_removed() -> None:
    checkpoint = planted(lambda tensors: zero(tensors, f"{SECOND}.weight", (slice(None), 4)))
    structure = analyse(checkpoint)
    assert 4 not in structure.layers[1].ffn_units
    assert structure.layers[1].folded_units == 0
    assert difference(checkpoint) < FP64_TOLERANCE


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_unit_without_input_is_folded(activation: str) -> None:
    checkpoint = tiny_checkpoint(seed=3, hidden_act=activation)
    tensors = dict(checkpoint.tensors)
    zero(tensors, f"{FIRST}.weight", 4)
    tensors[f"{FIRST}.bias"] = tensors[f"{FIRST}.bias"].clone()
    tensors[f"{FIRST}.bias"][4] = 1.5
    checkpoint = replace(checkpoint, tensors=tensors)
    packed, report = pack_with_report(checkpoint, dtype=torch.float64)
    assert report.layers[1].units_folded == 1
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE
    with torch.no_grad():
        second(packed).ffn.output.bias.copy_(tensors[f"{SECOND}.bias"])
    assert logit_difference(checkpoint, packed) > VISIBLE


def test_layer_that_lost_everything_is_two_biases() -> None:
    def plant(tensors: dict[str, Tensor]) -> None:
        zero(tensors, f"{ATTENTION}.value.weight", slice(None))
        zero(tensors, f"{FIRST}.weight", slice(None))

    checkpoint = planted(plant)
    packed = pack(checkpoint, dtype=torch.float64, pad_to=8)
    layer = packed.structure.layers[1]
    assert (layer.heads, layer.ffn_width) == ((), 0)
    assert [name for name, _ in second(packed).attention.named_parameters()] == ["bias"]
    assert [name for name, _ in second(packed).ffn.named_parameters()] == ["bias"]
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE


def test_almost_zero_is_not_zero() -> None:
    checkpoint = planted(dead_output)
    tensors = dict(checkpoint.tensors)
    tensors[f"{OUTPUT}.weight"] = tensors[f"{OUTPUT}.weight"].clone()
    tensors[f"{OUTPUT}.weight"][0, 2 * HEAD] = 1e-30
    assert analyse(replace(checkpoint, tensors=tensors)).layers[1].heads == (0, 1, 2, 3)


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_padding_to_a_multiple_is_exact(multiple: int) -> None:
    checkpoint = planted(lambda tensors: zero(tensors, f"{SECOND}.weight", (slice(None), slice(3, 9))))
    packed = pack(checkpoint, dtype=torch.float64, pad_to=multiple)
    for layer in packed.structure.layers:
        assert layer.ffn_width % multiple == 0
        assert layer.ffn_width - len(layer.ffn_units) < multiple
    assert logit_difference(checkpoint, packed) < FP64_TOLERANCE


def test_padding_below_one_is_an_error() -> None:
    with pytest.raises(InputError, match="pad_to must be at least 1, it is 0"):
        pack(tiny_checkpoint(), pad_to=0)


def test_packing_a_packed_checkpoint_changes_no_bit() -> None:
    checkpoint = planted(dead_value)
    packed = pack(checkpoint)
    heads = tuple(layer.heads for layer in packed.structure.layers)
    again = replace(checkpoint, tensors=tensors_from_module(packed), heads=heads, structure=packed.structure)
    repacked = pack(again)
    assert repacked.structure == packed.structure
    for name, tensor in packed.state_dict().items():
        assert torch.equal(tensor, repacked.state_dict()[name]), name
    wider = pack(again, pad_to=32)
    assert [layer.ffn_units for layer in wider.structure.layers] == [
        layer.ffn_units for layer in packed.structure.layers
    ]
    assert logit_difference(checkpoint, wider) < FP32_TOLERANCE


def test_query_scale_is_inside_the_query_only() -> None:
    checkpoint = tiny_checkpoint(seed=2)
    packed = pack(checkpoint, dtype=torch.float64)
    stored = checkpoint.tensors[f"{ATTENTION}.query.weight"].double()
    assert torch.equal(second(packed).attention.query.weight, stored * query_scale(packed.structure))
    assert torch.equal(tensors_from_module(packed)[f"{ATTENTION}.query.weight"], stored)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    """Any family, head size, activation and norm; heads and units of every kind of dead, mixed in every layer, and
    heads that are not in the tensors, as `pruned_heads` leaves them.
    """
    heads = draw(st.integers(1, 4))
    family = draw(st.sampled_from(FAMILIES))
    norms = ["layer_norm", "no_norm"] if "layer_norm_type" in family.config_keys else ["layer_norm"]
    checkpoint = tiny_checkpoint(
        family,
        seed=draw(st.integers(0, 2**16)),
        num_attention_heads=heads,
        hidden_size=heads * draw(st.sampled_from([1, 2, 5, 8])),
        intermediate_size=draw(st.integers(1, 12)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu"])),
        layer_norm_type=draw(st.sampled_from(norms)),
    )
    tensors = dict(checkpoint.tensors)
    for layer in range(2):
        prefix = f"layer.{layer}"
        for head in draw(st.sets(st.integers(0, heads - 1))):
            size = checkpoint.blank.head_size
            rows = slice(head * size, (head + 1) * size)
            kind = draw(st.sampled_from(["query", "key", "value", "output"]))
            if kind == "output":
                zero(tensors, f"{prefix}.attention.output.weight", (slice(None), rows))
            else:
                zero(tensors, f"{prefix}.attention.{kind}.weight", rows)
                if draw(st.booleans()):
                    zero(tensors, f"{prefix}.attention.{kind}.bias", rows)
        for unit in draw(st.sets(st.integers(0, checkpoint.blank.intermediate_size - 1))):
            if draw(st.booleans()):
                zero(tensors, f"{prefix}.ffn.intermediate.weight", unit)
            else:
                zero(tensors, f"{prefix}.ffn.output.weight", (slice(None), unit))
    stored = [tuple(sorted(draw(st.sets(st.integers(0, heads - 1))))) or (0,) for _ in range(2)]
    for layer, kept in enumerate(stored):
        for name, axis in HEAD_AXES.items():
            stays = torch.tensor(head_rows(kept, checkpoint.blank.head_size))
            tensors[f"layer.{layer}.{name}"] = tensors[f"layer.{layer}.{name}"].index_select(axis, stays)
    return replace(checkpoint, tensors=tensors, heads=tuple(stored))


@settings(max_examples=60, deadline=None)
@given(checkpoint=checkpoints(), pad_to=st.sampled_from([1, 4]))
def test_packed_equals_unpacked(checkpoint: Checkpoint, pad_to: int) -> None:
    for dtype, tolerance in ((torch.float64, FP64_TOLERANCE), (torch.float32, FP32_TOLERANCE)):
        packed = pack(checkpoint, dtype=dtype, pad_to=pad_to)
        assert logit_difference(checkpoint, packed) < tolerance
        assert sum(parameter.numel() for parameter in packed.parameters()) == packed.structure.parameters
