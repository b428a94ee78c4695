"""The tensors of a checkpoint: their standard names, the shapes they must have, and which heads they hold.

A layer's attention may be as narrow as its surviving heads and its FFN as its surviving units; everything else is
fixed by the configuration. All faults of a file are found before one error reports them.

    tensors, faults = standard_names(stored)
    faults += tensor_faults(tensors, expected_shapes(config, layer_widths(config, tensors)))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from densepack_runtime.structure import Positions

QKV = ("query", "key", "value")
_IGNORED = re.compile(r"(.*\.)?position_ids|(.*\.)?pooler\..*")
# Older names for the same tensors: nn_pruning's wrapped FFN projections, and the first BERT releases' LayerNorm.
_RENAMED = (
    (".dense.linear.", ".dense."),
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
)


@dataclass(frozen=True, slots=True)
class LayerWidths:
    """Rows that a layer's projections have in the file: heads times head size, and FFN units."""

    attention: int
    ffn: int


@dataclass(frozen=True, slots=True)
class StoredHeads:
    """Per layer the ids of the heads in the file, ascending, and whether they are the original ids of all layers."""

    heads: tuple[tuple[int, ...], ...]
    head_ids: Positions
    notes: tuple[str, ...]


def layer_prefix(index: int) -> str:
    """What the names of a layer's tensors start with."""
    return f"bert.encoder.layer.{index}."


def standard_names(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under transformers' present names, without those that say nothing; and names that then collide."""
    tensors: dict[str, Tensor] = {}
    faults = []
    for name, tensor in stored.items():
        if _IGNORED.fullmatch(name):
            continue
        standard = name
        for old, new in _RENAMED:
            standard = standard.replace(old, new)
        if standard in tensors or (standard != name and standard in stored):
            faults.append(f"{name} is there beside {standard}, which is the same tensor")
        tensors[standard] = tensor
    return tensors, faults


def layer_widths(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[list[LayerWidths], list[str]]:
    """The width of every layer by the majority of its tensors, and widths that no model can have."""
    hidden, units = config["hidden_size"], config["intermediate_size"]
    head_size = hidden // config["num_attention_heads"]
    widths, faults = [], []
    for index in range(config["num_hidden_layers"]):
        prefix = layer_prefix(index)
        attention = _majority(
            tensors,
            [
                *((f"{prefix}attention.self.{name}.{part}", 0) for part in ("weight", "bias") for name in QKV),
                (f"{prefix}attention.output.dense.weight", 1),
            ],
            hidden,
        )
        if attention % head_size or attention > hidden:
            faults.append(
                f"layer {index} has attention of width {attention}: up to {hidden} in whole heads of {head_size}"
            )
            attention = hidden
        ffn = _majority(
            tensors,
            [
                (f"{prefix}intermediate.dense.weight", 0),
                (f"{prefix}output.dense.weight", 1),
                (f"{prefix}intermediate.dense.bias", 0),
            ],
            units,
        )
        if ffn > units:
            faults.append(f"layer {index} has an FFN of width {ffn}: intermediate_size is {units}")
            ffn = units
        widths.append(LayerWidths(attention, ffn))
    return widths, faults


def _majority(tensors: Mapping[str, Tensor], places: Sequence[tuple[str, int]], otherwise: int) -> int:
    """The size that most of these (name, axis) agree on."""
    sizes = [tensors[name].shape[axis] for name, axis in places if name in tensors and tensors[name].ndim > axis]
    return Counter(sizes).most_common(1)[0][0] if sizes else otherwise


def expected_shapes(config: Mapping[str, Any], widths: Sequence[LayerWidths]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a BertForQuestionAnswering whose layers have these widths."""
    hidden = config["hidden_size"]
    embeddings = "bert.embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}word_embeddings.weight": (config["vocab_size"], hidden),
        f"{embeddings}position_embeddings.weight": (config["max_position_embeddings"], hidden),
        f"{embeddings}token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **_norm_shapes(embeddings, hidden),
    }
    for index, width in enumerate(widths):
        prefix = layer_prefix(index)
        for name in QKV:
            shapes |= _linear_shapes(f"{prefix}attention.self.{name}.", width.attention, hidden)
        shapes |= _linear_shapes(f"{prefix}attention.output.dense.", hidden, width.attention)
        shapes |= _norm_shapes(f"{prefix}attention.output.", hidden)
        shapes |= _linear_shapes(f"{prefix}intermediate.dense.", width.ffn, hidden)
        shapes |= _linear_shapes(f"{prefix}output.dense.", hidden, width.ffn)
        shapes |= _norm_shapes(f"{prefix}output.", hidden)
    return shapes | _linear_shapes("qa_outputs.", 2, hidden)


def _linear_shapes(prefix: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}weight": (rows, columns), f"{prefix}bias": (rows,)}


def _norm_shapes(prefix: str, hidden: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}LayerNorm.weight": (hidden,), f"{prefix}LayerNorm.bias": (hidden,)}


def tensor_faults(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every missing, unexpected and wrongly shaped tensor, one text each."""
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name not in expected:
            faults.append(f"{name} {list(tensor.shape)} is unexpected")
        elif tuple(tensor.shape) != expected[name]:
            faults.append(f"{name} is {list(tensor.shape)} instead of {list(expected[name])}")
    return faults


def value_faults(tensors: Mapping[str, Tensor]) -> list[str]:
    """Every tensor that is not of a float type, or holds a value that is not finite."""
    faults = []
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point or tensor.layout is not torch.strided or tensor.is_quantized:
            faults.append(f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}, dense floats are needed")
        elif not torch.isfinite(tensor).all():
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            faults.append(f"{name} has {wrong} of {tensor.numel()} values that are not finite (NaN or infinity)")
    return faults


# --- heads and positions ----------------------------------------------------------------------------------------------


def stored_heads(
    config: Mapping[str, Any],
    pruned: Mapping[int, frozenset[int]],
    widths: Sequence[LayerWidths],
    tensors: Mapping[str, Tensor],
) -> tuple[StoredHeads, list[str]]:
    """Which heads the tensors of every layer hold, by their shapes and by `pruned_heads`; and contradictions.

    As many heads as `pruned_heads` leaves: those. All heads although some are listed: all, if the listed ones are
    zeros. Fewer heads and the layer is not named: ids are unknown, positions in the file stand for them.
    """
    total = config["num_attention_heads"]
    head_size = config["hidden_size"] // total
    heads: list[tuple[int, ...]] = []
    notes, faults = [], []
    known = True
    for index, width in enumerate(widths):
        count, listed = width.attention // head_size, pruned.get(index)
        kept = tuple(head for head in range(total) if head not in (listed or ()))
        if count == len(kept):
            heads.append(kept)
        elif count == total:
            alive = [head for head in sorted(listed or ()) if _contributes(tensors, index, head, head_size)]
            if alive:
                faults.append(
                    f"layer {index}: pruned_heads lists {sorted(listed or ())}, but the file holds all {total} heads "
                    f"and of these {alive} are not zero"
                )
            notes.append(f"layer {index}: pruned_heads lists heads whose zeros are still in the file")
            heads.append(tuple(range(total)))
        elif listed is None:
            known = False
            notes.append(f"layer {index}: {count} of {total} heads, and nothing says which: numbered as stored")
            heads.append(tuple(range(count)))
        else:
            faults.append(
                f"layer {index}: pruned_heads lists {sorted(listed)}, which leaves {len(kept)} of {total} heads, "
                f"but the file holds {count} (width {width.attention}, head size {head_size})"
            )
            heads.append(())
    return StoredHeads(tuple(heads), "original" if known else "stored", tuple(notes)), faults


def _contributes(tensors: Mapping[str, Tensor], index: int, head: int, head_size: int) -> bool:
    """Whether a head adds anything to the output, a constant included."""
    prefix, rows = layer_prefix(index), slice(head * head_size, (head + 1) * head_size)
    if not tensors[f"{prefix}attention.output.dense.weight"][:, rows].any():
        return False
    value = f"{prefix}attention.self.value."
    return bool(tensors[f"{value}weight"][rows].any() or tensors[f"{value}bias"][rows].any())


def ffn_positions(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Positions:
    """Whether the places of FFN units in the file are those of the original model.

    They are not where a layer is stored narrower than it was, and not in the published format, which moves live units
    to the front: there the units without weights are the last ones of *every* layer.
    """
    moved = False
    for index in range(config["num_hidden_layers"]):
        first = tensors[f"{layer_prefix(index)}intermediate.dense.weight"]
        second = tensors[f"{layer_prefix(index)}output.dense.weight"]
        if len(first) < config["intermediate_size"]:
            return "stored"
        empty = ~((first != 0).any(1) | (second != 0).any(0))
        alive = int((~empty).sum())
        if empty[:alive].any():
            return "original"  # only a model whose units never moved has holes
        moved = moved or alive < len(first)
    return "stored" if moved else "original"


def prefix_hint(names: Iterable[str]) -> str:
    """A cure for the commonest reason that every name is wrong."""
    names = list(names)
    if any(name.startswith("encoder.layer.") for name in names):
        return " (the names lack the prefix 'bert.': save the whole BertForQuestionAnswering, not its encoder)"
    wrappers = sorted({name.split("bert.")[0] for name in names if re.match(r"[^.].*\.bert\.encoder\.", name)})
    return f" (the names carry the wrapper prefix {wrappers[0]!r}: save the unwrapped model)" if wrappers else ""
