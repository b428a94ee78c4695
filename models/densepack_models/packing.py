"""Packing: remove the heads and FFN units that no longer do anything, exactly.

For a head h, V_h and bV_h are its rows of the value weight and bias and O_h its columns of the attention output weight;
for an FFN unit i, W1[i] and b1[i] are its row and bias and W2[:, i] its column.

    O_h = 0           drop the head
    V_h = 0           its output is the constant bV_h, because attention rows sum to 1: drop it, bO += O_h bV_h
    Q_h = 0, K_h = 0  keep it: it still averages the values (dropping it is lossy and has to be asked for)
    W2[:, i] = 0      drop the unit
    W1[i] = 0         its activation is the constant act(b1[i]): drop it, b2 += W2[:, i] act(b1[i])

Zero means exactly zero in the stored dtype. Folding happens in float64, once, before the cast.

    packed = pack(load_checkpoint("checkpoint/"))
    packed, report = pack_with_report(checkpoint, pad_to=8)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.tensors import HEAD_AXES, UNIT_AXES
from densepack_models.packed_bert import PackedBertForQuestionAnswering, make_activation
from densepack_models.packing_report import PackReport, report_packing
from densepack_models.reference import reference_module
from densepack_models.weights import module_from_tensors
from densepack_runtime.errors import InputError
from densepack_runtime.structure import LayerStructure, Structure


def pack(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    pad_to: int = 1,
    drop_query_dead_heads: bool = False,
) -> PackedBertForQuestionAnswering:
    """The packed module of a checkpoint, in `dtype`; see `pack_with_report`."""
    packed, _ = pack_with_report(checkpoint, dtype=dtype, pad_to=pad_to, drop_query_dead_heads=drop_query_dead_heads)
    return packed


def pack_with_report(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    pad_to: int = 1,
    drop_query_dead_heads: bool = False,
) -> tuple[PackedBertForQuestionAnswering, PackReport]:
    """Pack a checkpoint and say what was done.

    `pad_to` rounds FFN widths up to a multiple with zero units. `drop_query_dead_heads` is lossy. A checkpoint that is
    packed already is rebuilt bit for bit. Raises InputError for a `pad_to` below 1.
    """
    if pad_to < 1:
        raise InputError(f"pad_to must be at least 1, it is {pad_to}")
    if checkpoint.structure is not None and pad_to == 1 and not drop_query_dead_heads:
        structure, tensors = checkpoint.structure, checkpoint.tensors
    else:
        structure, tensors = _cut(checkpoint, pad_to, drop_query_dead_heads)
    packed = module_from_tensors(structure, checkpoint.config, tensors, dtype)
    return packed, report_packing(checkpoint, structure)


def analyse(checkpoint: Checkpoint) -> Structure:
    """The structure that packing would give, without building the module."""
    return checkpoint.structure or _cut(checkpoint, 1, False)[0]


def logit_difference(checkpoint: Checkpoint, packed: PackedBertForQuestionAnswering, *, seed: int = 0) -> float:
    """Largest |Δlogit| between the unpacked reference and `packed` on random padded batches of mixed length.

    Both run in the dtype of `packed`. Padded positions are left out.
    """
    dtype = next(packed.parameters()).dtype
    reference = reference_module(checkpoint, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    longest = min(128, packed.structure.longest_input)
    largest = 0.0
    for length in {longest, max(2, longest // 3)}:
        inputs = _random_batch(packed.structure, 4, length, generator)
        with torch.inference_mode():
            pairs = zip(packed(*inputs), reference(*inputs), strict=True)
            largest = max(largest, *(((ours - theirs).abs() * inputs[1]).max().item() for ours, theirs in pairs))
    return largest


def _random_batch(structure: Structure, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    ids = torch.randint(1, structure.vocab_size, (rows, length), generator=generator)
    lengths = torch.linspace(1, length, rows).long()[:, None]  # from one token to no padding
    mask = (torch.arange(length) < lengths).long()
    types = (torch.arange(length) >= lengths // 2).long() * mask * int(structure.type_vocab_size > 1)
    return ids * mask, mask, types


# --- cutting ------------------------------------------------------------


@dataclass
class _Layer:
    """One layer while it is cut: its tensors without the prefix, in stored dtype, and what was found."""

    tensors: dict[str, Tensor]
    heads: tuple[int, ...]
    head_size: int
    folded_heads: list[int] = field(default_factory=list)
    query_dead: list[int] = field(default_factory=list)

    def head_rows(self, name: str) -> Tensor:
        """A q/k/v weight by head, [heads, head size, hidden]; or a bias, [heads, head size]."""
        tensor = self.tensors[name]
        return tensor.reshape(len(self.heads), self.head_size, *tensor.shape[1:])

    def head_columns(self) -> Tensor:
        """The attention output weight by head, [heads, hidden, head size]."""
        weight = self.tensors["attention.output.weight"]
        return weight.view(len(weight), len(self.heads), self.head_size).transpose(0, 1)


def _cut(checkpoint: Checkpoint, pad_to: int, drop_query_dead: bool) -> tuple[Structure, dict[str, Tensor]]:
    blank = checkpoint.blank
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("layer.")}
    layers = []
    for index in range(blank.num_layers):
        prefix = f"layer.{index}."
        stored = {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
        }
        layer = _Layer(stored, checkpoint.heads[index], blank.head_size)
        kept_heads = _cut_heads(layer, drop_query_dead)
        units, folded_units = _cut_units(layer.tensors, blank.hidden_act)
        width = -(-len(units) // pad_to) * pad_to
        _pad_units(layer.tensors, width)
        positions = _unit_positions(checkpoint, index, units)
        layers.append(
            LayerStructure(
                heads=kept_heads,
                ffn_units=positions,
                ffn_width=width,
                folded_heads=tuple(layer.folded_heads),
                folded_units=folded_units,
                query_dead_heads=tuple(layer.query_dead),
            )
        )
        tensors.update({f"{prefix}{name}": tensor for name, tensor in layer.tensors.items()})
    return replace(blank, layers=tuple(layers)), tensors


def _cut_heads(layer: _Layer, drop_query_dead: bool) -> tuple[int, ...]:
    """Drop dead heads of a layer, fold their constants into the output bias; returns the ids of the survivors."""
    if not layer.heads:
        return ()
    value, value_bias = layer.head_rows("attention.value.weight"), layer.head_rows("attention.value.bias")
    output = layer.head_columns()
    bias = layer.tensors["attention.output.bias"].double()
    kept = []
    for place, head in enumerate(layer.heads):
        if not output[place].any():
            continue
        if not value[place].any():
            if value_bias[place].any():
                bias = bias + output[place].double() @ value_bias[place].double()
                layer.folded_heads.append(head)
            continue
        if not _queries_matter(layer, place):
            if drop_query_dead:
                continue
            layer.query_dead.append(head)
        kept.append(place)
    if layer.folded_heads:  # an untouched bias keeps its stored bits
        layer.tensors["attention.output.bias"] = bias
    _keep_heads(layer, kept)
    return tuple(layer.heads[place] for place in kept)


def _queries_matter(layer: _Layer, place: int) -> bool:
    """Whether the attention of a head depends on who asks: neither its queries nor its keys are all zero."""
    return all(bool(layer.head_rows(f"attention.{name}.weight")[place].any()) for name in ("query", "key"))


def _keep_heads(layer: _Layer, kept: list[int]) -> None:
    if not kept:
        for name in HEAD_AXES:
            del layer.tensors[name]
        return
    if len(kept) == len(layer.heads):
        return
    for name, axis in HEAD_AXES.items():
        if axis == 0:
            layer.tensors[name] = layer.head_rows(name)[kept].flatten(0, 1)
    columns = layer.head_columns()[kept]  # [kept, hidden, head size]
    layer.tensors["attention.output.weight"] = columns.transpose(0, 1).flatten(1)


def _cut_units(tensors: dict[str, Tensor], activation: str) -> tuple[list[int], int]:
    """Drop dead FFN units, fold their constants into the second bias; positions of the survivors, number folded."""
    first, first_bias = tensors["ffn.intermediate.weight"], tensors["ffn.intermediate.bias"]
    second = tensors["ffn.output.weight"]
    used = (second != 0).any(0)  # [units]
    alive = used & (first != 0).any(1)
    constant = make_activation(activation)(first_bias.double())
    folded = used & ~alive & (constant != 0)
    if folded.any():
        tensors["ffn.output.bias"] = tensors["ffn.output.bias"].double() + second[:, folded].double() @ constant[folded]
    kept = alive.nonzero().flatten()
    if len(kept) < len(alive):
        for name, axis in UNIT_AXES.items():
            tensors[name] = tensors[name].index_select(axis, kept)
    return kept.tolist(), int(folded.sum())


def _pad_units(tensors: dict[str, Tensor], width: int) -> None:
    """Bring the FFN to `width` with zero units behind the live ones; with width 0 only the bias remains."""
    missing = width - len(tensors["ffn.intermediate.bias"])
    for name, axis in UNIT_AXES.items():
        if width == 0:
            del tensors[name]
        elif missing:
            behind = (0, 0) * (tensors[name].ndim - 1 - axis) + (0, missing)  # last axis first
            tensors[name] = torch.nn.functional.pad(tensors[name], behind)


def _unit_positions(checkpoint: Checkpoint, index: int, units: list[int]) -> tuple[int, ...]:
    """What the surviving units are called: by the positions that an earlier packing kept, or by those in the file."""
    if checkpoint.structure is None:
        return tuple(units)
    earlier = checkpoint.structure.layers[index].ffn_units
    return tuple(earlier[unit] for unit in units)
