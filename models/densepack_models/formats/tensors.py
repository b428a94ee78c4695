"""The tensors of a checkpoint: their names, the shapes they must have, and the heads and units that they hold.

A layer's attention may be as narrow as its surviving heads and its FFN as its surviving units; everything else is
fixed by the sizes of the model. All faults of a file are found before one error reports them, in the file's own names.

    tensors, faults = canonical_tensors(family, stored)
    widths, more = layer_widths(sizes, tensors)
    faults += more + tensor_faults(family, tensors, expected_shapes(sizes, widths))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densepack_models.families.family import Family
from densepack_runtime.structure import Positions, Structure

# What weights may be stored in; numbers of 8 bits mean nothing without the scales that they were stored with.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
QKV = ("query", "key", "value")
# Tensors of a layer that have its heads, or its FFN units, as rows (0) or as columns (1).
HEAD_AXES = {f"attention.{name}.{part}": 0 for part in ("weight", "bias") for name in QKV} | {
    "attention.output.weight": 1
}
UNIT_AXES = {"ffn.intermediate.weight": 0, "ffn.output.weight": 1, "ffn.intermediate.bias": 0}


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


def canonical_tensors(family: Family, stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors under the packed module's names, without those that say nothing; and faults of their names."""
    tensors: dict[str, Tensor] = {}
    faults = []
    for name, tensor in stored.items():
        if family.ignored.fullmatch(name):
            continue
        canonical = family.canonical_name(name)
        usual = family.file_name(canonical)
        if canonical in tensors or (usual != name and usual in stored):
            faults.append(f"{name} is there beside {usual}, which is the same tensor")
        if canonical == name != usual:  # the packed module's name, which means nothing in a file
            faults.append(f"{name} {list(tensor.shape)} is unexpected")
        else:
            tensors[canonical] = tensor
    return tensors, faults


def layer_widths(sizes: Structure, tensors: Mapping[str, Tensor]) -> tuple[list[LayerWidths], list[str]]:
    """The width of every layer by the majority of its tensors, and widths that no model can have."""
    hidden, units, head_size = sizes.hidden_size, sizes.intermediate_size, sizes.head_size
    widths, faults = [], []
    for index in range(sizes.num_layers):
        attention = _majority(tensors, index, HEAD_AXES, hidden)
        if attention % head_size or attention > hidden:
            faults.append(
                f"layer {index} has attention of width {attention}: up to {hidden} in whole heads of {head_size}"
            )
            attention = hidden
        ffn = _majority(tensors, index, UNIT_AXES, units)
        if ffn > units:
            faults.append(f"layer {index} has an FFN of width {ffn}: intermediate_size is {units}")
            ffn = units
        widths.append(LayerWidths(attention, ffn))
    return widths, faults


def _majority(tensors: Mapping[str, Tensor], index: int, axes: Mapping[str, int], otherwise: int) -> int:
    """The size that most of a layer's tensors agree on along these axes."""
    there = [(tensors.get(f"layer.{index}.{name}"), axis) for name, axis in axes.items()]
    found = Counter(tensor.shape[axis] for tensor, axis in there if tensor is not None and tensor.ndim > axis)
    return found.most_common(1)[0][0] if found else otherwise


def structure_widths(structure: Structure) -> list[LayerWidths]:
    """The widths of packed layers."""
    return [LayerWidths(len(layer.heads) * structure.head_size, layer.ffn_width) for layer in structure.layers]


def expected_shapes(sizes: Structure, widths: Sequence[LayerWidths]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model whose layers have these widths."""
    hidden, embedded = sizes.hidden_size, sizes.embedding_width
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word.weight": (sizes.vocab_size, embedded),
        "embeddings.position.weight": (sizes.max_position_embeddings, embedded),
    }
    if sizes.token_types != "none":
        shapes["embeddings.token_type.weight"] = (sizes.type_vocab_size, embedded)
    shapes |= _norm_shapes("embeddings.norm", embedded)
    if sizes.is_projected:
        shapes |= _linear_shapes("embeddings.project", hidden, embedded)
    for index, width in enumerate(widths):
        layer = f"layer.{index}"
        for name in QKV:
            shapes |= _linear_shapes(f"{layer}.attention.{name}", width.attention, hidden)
        shapes |= _linear_shapes(f"{layer}.attention.output", hidden, width.attention)
        shapes |= _norm_shapes(f"{layer}.attention_norm.norm", hidden)
        shapes |= _linear_shapes(f"{layer}.ffn.intermediate", width.ffn, hidden)
        shapes |= _linear_shapes(f"{layer}.ffn.output", hidden, width.ffn)
        shapes |= _norm_shapes(f"{layer}.ffn_norm.norm", hidden)
    return shapes | _linear_shapes("qa_outputs", 2, hidden)


def _linear_shapes(module: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{module}.weight": (rows, columns), f"{module}.bias": (rows,)}


def _norm_shapes(module: str, hidden: int) -> dict[str, tuple[int, ...]]:
    return {f"{module}.weight": (hidden,), f"{module}.bias": (hidden,)}


def tensor_faults(family: Family, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every missing, unexpected and wrongly shaped tensor, one text each."""
    faults = [f"{family.file_name(name)} is missing" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name not in expected:
            faults.append(f"{family.file_name(name)} {list(tensor.shape)} is unexpected")
        elif tuple(tensor.shape) != expected[name]:
            faults.append(f"{family.file_name(name)} is {list(tensor.shape)} instead of {list(expected[name])}")
    return faults


def value_faults(family: Family, tensors: Mapping[str, Tensor]) -> list[str]:
    """Every tensor that is not of a float type, or holds a value that is not finite."""
    faults = []
    for name, tensor in family.file_names(tensors).items():
        if tensor.dtype not in FLOATS or tensor.layout is not torch.strided or tensor.is_meta:
            told = str(tensor.dtype).removeprefix("torch.")
            faults.append(f"{name} is of type {told}, dense floats of 16 to 64 bits are needed")
        elif not torch.isfinite(tensor).all():
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            faults.append(f"{name} has {wrong} of {tensor.numel()} values that are not finite (NaN or infinity)")
    return faults


# --- heads and positions ----------------------------------------------------------------------------------------------


def stored_heads(
    sizes: Structure,
    pruned: Mapping[int, frozenset[int]],
    widths: Sequence[LayerWidths],
    tensors: Mapping[str, Tensor],
) -> tuple[StoredHeads, list[str]]:
    """Which heads the tensors of every layer hold, by their shapes and by `pruned_heads`; and contradictions.

    As many heads as `pruned_heads` leaves: those. All heads although some are listed: all, if the listed ones are
    zeros. Fewer heads and the layer is not named: ids are unknown, positions in the file stand for them.
    """
    total, head_size = sizes.num_attention_heads, sizes.head_size
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
    block, rows = f"layer.{index}.attention", slice(head * head_size, (head + 1) * head_size)
    if not tensors[f"{block}.output.weight"][:, rows].any():
        return False
    return bool(tensors[f"{block}.value.weight"][rows].any() or tensors[f"{block}.value.bias"][rows].any())


def ffn_positions(sizes: Structure, tensors: Mapping[str, Tensor]) -> Positions:
    """Whether the places of FFN units in the file are those of the original model.

    They are not where a layer is stored narrower than it was, and not in the published format, which moves live units
    to the front: there the units without weights are the last ones of *every* layer.
    """
    moved = False
    for index in range(sizes.num_layers):
        first, second = (tensors[f"layer.{index}.ffn.{name}.weight"] for name in ("intermediate", "output"))
        if len(first) < sizes.intermediate_size:
            return "stored"
        empty = ~((first != 0).any(1) | (second != 0).any(0))
        alive = int((~empty).sum())
        if empty[:alive].any():
            return "original"  # only a model whose units never moved has holes
        moved = moved or alive < len(first)
    return "stored" if moved else "original"


def head_rows(heads: Iterable[int], head_size: int) -> list[int]:
    """Rows that heads have in a query, key or value projection."""
    return [head * head_size + row for head in heads for row in range(head_size)]


def spread(
    tensors: dict[str, Tensor], index: int, axes: Mapping[str, int], *, places: Sequence[int], size: int
) -> None:
    """Widen tensors of a layer to `size` along their axes: what they hold goes to `places`, the rest is zeros.

    What a tensor has behind the last place only pads it. Without places it need not be there at all.
    """
    answers = tensors["qa_outputs.weight"]  # [2, hidden]
    for name, axis in axes.items():
        shape = [size] if name.endswith(".bias") else [answers.shape[1]] * 2
        shape[axis] = size
        full = torch.zeros(shape, dtype=answers.dtype)
        if places:
            stored = tensors[f"layer.{index}.{name}"].narrow(axis, 0, len(places))
            full.index_copy_(axis, torch.tensor(places), stored)
        tensors[f"layer.{index}.{name}"] = full


# --- names that are all wrong -----------------------------------------------------------------------------------------


def prefix_hint(family: Family, names: Iterable[str]) -> str:
    """A cure for the commonest reasons that every name is wrong."""
    for name in names:
        if family.file_name(name) != name:
            continue  # a tensor that is known
        if _is_known(family, f"{family.prefix}{name}"):
            return (
                f" (the names lack the prefix {family.prefix!r}: save the whole {family.architecture}, not its encoder)"
            )
        wrapper, _, rest = name.partition(f".{family.prefix}")
        if _is_known(family, f"{family.prefix}{rest}"):
            return f" (the names carry the wrapper prefix {wrapper + '.'!r}: save the unwrapped model)"
    return ""


def _is_known(family: Family, name: str) -> bool:
    canonical = family.canonical_name(name)
    return family.file_name(canonical) != canonical
