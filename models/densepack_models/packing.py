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
from densepack_models.packed_bert import PackedBertForQuestionAnswering, make_activation
from densepack_models.packing_report import PackReport, _report
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
    return packed, _report(checkpoint, structure)


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
    longest = min(128, packed.structure.max_position_embeddings)
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
        weight = self.tensors["attention.output.dense.weight"]
        return weight.view(len(weight), len(self.heads), self.head_size).transpose(0, 1)


def _cut(checkpoint: Checkpoint, pad_to: int, drop_query_dead: bool) -> tuple[Structure, dict[str, Tensor]]:
    blank = blank_structure(checkpoint)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("bert.encoder.")}
    layers = []
    for index in range(blank.num_layers):
        prefix = f"bert.encoder.layer.{index}."
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


def blank_structure(checkpoint: Checkpoint) -> Structure:
    """The sizes of a checkpoint from its configuration, with empty layers."""
    config = checkpoint.config
    empty = LayerStructure(heads=(), ffn_units=(), ffn_width=0)
    activation = str(config.get("hidden_act", "gelu"))
    return Structure(
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        type_vocab_size=config["type_vocab_size"],
        hidden_size=config["hidden_size"],
        num_attention_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        layers=(empty,) * config["num_hidden_layers"],
        layer_norm_eps=config.get("layer_norm_eps", 1e-12),
        hidden_act=activation,  # type: ignore[arg-type]  # load_checkpoint accepts only the known ones
        layer_norm_type=config.get("layer_norm_type", "layer_norm"),
        head_ids=checkpoint.head_ids,
        ffn_positions=checkpoint.ffn_positions,
        source_sha256=checkpoint.sha256,
    )


def _cut_heads(layer: _Layer, drop_query_dead: bool) -> tuple[int, ...]:
    """Drop dead heads of a layer, fold their constants into the output bias; returns the ids of the survivors."""
    if not layer.heads:
        return ()
    value, value_bias = layer.head_rows("attention.self.value.weight"), layer.head_rows("attention.self.value.bias")
    output = layer.head_columns()
    bias = layer.tensors["attention.output.dense.bias"].double()
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
        layer.tensors["attention.output.dense.bias"] = bias
    _keep_heads(layer, kept)
    return tuple(layer.heads[place] for place in kept)


def _queries_matter(layer: _Layer, place: int) -> bool:
    """Whether the attention of a head depends on who asks: neither its queries nor its keys are all zero."""
    names = ("attention.self.query.weight", "attention.self.key.weight")
    return all(bool(layer.head_rows(name)[place].any()) for name in names)


def _keep_heads(layer: _Layer, kept: list[int]) -> None:
    if not kept:
        for name in ("query", "key", "value"):
            del layer.tensors[f"attention.self.{name}.weight"], layer.tensors[f"attention.self.{name}.bias"]
        del layer.tensors["attention.output.dense.weight"]
        return
    if len(kept) == len(layer.heads):
        return
    for name in ("query", "key", "value"):
        for part in ("weight", "bias"):
            key = f"attention.self.{name}.{part}"
            layer.tensors[key] = layer.head_rows(key)[kept].flatten(0, 1)
    columns = layer.head_columns()[kept]  # [kept, hidden, head size]
    layer.tensors["attention.output.dense.weight"] = columns.transpose(0, 1).flatten(1)


def _cut_units(tensors: dict[str, Tensor], activation: str) -> tuple[list[int], int]:
    """Drop dead FFN units, fold their constants into the second bias; positions of the survivors, number folded."""
    first, first_bias = tensors["intermediate.dense.weight"], tensors["intermediate.dense.bias"]
    second = tensors["output.dense.weight"]
    used = (second != 0).any(0)  # [units]
    alive = used & (first != 0).any(1)
    constant = make_activation(activation)(first_bias.double())
    folded = used & ~alive & (constant != 0)
    if folded.any():
        tensors["output.dense.bias"] = (
            tensors["output.dense.bias"].double() + second[:, folded].double() @ constant[folded]
        )
    kept = alive.nonzero().flatten()
    if len(kept) < len(alive):
        tensors["intermediate.dense.weight"], tensors["intermediate.dense.bias"] = first[kept], first_bias[kept]
        tensors["output.dense.weight"] = second[:, kept]
    return kept.tolist(), int(folded.sum())


def _pad_units(tensors: dict[str, Tensor], width: int) -> None:
    """Bring the FFN to `width` with zero units behind the live ones; with width 0 only the bias remains."""
    if width == 0:
        for name in ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight"):
            del tensors[name]
        return
    missing = width - len(tensors["intermediate.dense.bias"])
    if missing:
        pad = torch.nn.functional.pad
        tensors["intermediate.dense.weight"] = pad(tensors["intermediate.dense.weight"], (0, 0, 0, missing))
        tensors["intermediate.dense.bias"] = pad(tensors["intermediate.dense.bias"], (0, missing))
        tensors["output.dense.weight"] = pad(tensors["output.dense.weight"], (0, missing))


def _unit_positions(checkpoint: Checkpoint, index: int, units: list[int]) -> tuple[int, ...]:
    """What the surviving units are called: by the positions that an earlier packing kept, or by those in the file."""
    if checkpoint.structure is None:
        return tuple(units)
    earlier = checkpoint.structure.layers[index].ffn_units
    return tuple(earlier[unit] for unit in units)
