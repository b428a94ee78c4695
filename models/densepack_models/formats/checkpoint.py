"""Reading checkpoints: every format that pruned BERT question-answering models are found in becomes one Checkpoint.

plain BertForQuestionAnswering      safetensors, pytorch_model.bin (never run as code), either in shards
published pruned models             heads cut, pruned_heads in config.json, FFN padded with zeros
heads or units cut without notice   told by their shapes; head ids are then positions in the file
nn_pruning's training checkpoints   scores and sparse_args.json: the masks are applied
densepack's packed checkpoints      structure.json: read back bit for bit

checkpoint = load_checkpoint("folder")                        # or a hub id
checkpoint.heads[3], checkpoint.tensors["layer.3.attention.query.weight"]
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from densepack_models.families.family import Family
from densepack_models.formats.config import (
    architecture_names,
    family_of,
    pruned_heads,
    read_config,
    structure_from_config,
    supported,
)
from densepack_models.formats.hub import Location, fetch_weights, locate_checkpoint
from densepack_models.formats.new_head import with_new_head
from densepack_models.formats.sparse_args import describe, read_sparse_settings
from densepack_models.formats.tensors import (
    canonical_tensors,
    expected_shapes,
    ffn_positions,
    layer_widths,
    prefix_hint,
    stored_heads,
    structure_widths,
    tensor_faults,
    value_faults,
)
from densepack_models.formats.tokenizer import check_layout, read_tokenizer
from densepack_models.formats.training_masks import apply_masks, has_mask_scores
from densepack_models.formats.weight_files import find_weight_files, read_tensors, weights_sha256
from densepack_runtime.errors import CheckpointError, InputError, joined
from densepack_runtime.structure import Positions, Structure

STRUCTURE_FILE = "structure.json"
# A key of config.json by which `write_transformers` says what the published format cannot.
MARK = "densepack"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read.

    `config` is config.json with its family's defaults filled in. `tensors` are as stored, in the stored dtype, under
    the packed module's names (see families/family.py): the attention of a layer as wide as its heads, the FFN at its
    stored width, a block that has nothing left with size 0.
    `heads` are per layer the ids of the heads in the tensors, ascending; original ids, or for layers of unknown origin
    (`head_ids` "stored") positions. `ffn_positions` says the same of FFN units. `structure` is there when densepack
    packed it. `source` is the folder's name or hub id@commit, `sha256` of the weight files' bytes in name order.
    `notes` tell in words what had to be decided on the way.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    heads: tuple[tuple[int, ...], ...]
    head_ids: Positions
    ffn_positions: Positions
    structure: Structure | None
    tokenizer_json: str
    source: str
    sha256: str
    notes: tuple[str, ...] = field(default=())

    @property
    def family(self) -> Family:
        """What its files call things."""
        return family_of(self.config)

    @property
    def blank(self) -> Structure:
        """Its sizes and kinds, with nothing in the layers."""
        return replace(
            structure_from_config(self.config),
            head_ids=self.head_ids,
            ffn_positions=self.ffn_positions,
            source_sha256=self.sha256,
        )


def load_checkpoint(
    path_or_hub_id: str | Path, *, revision: str | None = None, head_seed: int | None = None
) -> Checkpoint:
    """Read a checkpoint from a folder or the Hugging Face hub (its cache, its progress bar, HF_HUB_OFFLINE honoured).

    With `head_seed`, a pretrained encoder gets a new question-answering head, to be trained; without, it is refused.
    Raises CheckpointError that names everything that is wrong: an unsupported architecture or setting, files that are
    missing or damaged, tensors that are missing, unexpected, of a wrong shape or not finite.
    """
    location = locate_checkpoint(path_or_hub_id, revision)
    config = read_config(location.folder)
    packed = (location.folder / STRUCTURE_FILE).is_file()
    sizes = structure_from_config(config)
    tokenizer_json, told = read_tokenizer(
        location.folder,
        sizes.vocab_size,
        tokenizer_class=config.get("tokenizer_class"),
        packed=packed,
        sentencepiece=family_of(config).sentencepiece,
    )
    check_layout(tokenizer_json, sizes)
    fetch_weights(location)
    files = find_weight_files(location.folder)
    stored = read_tensors(files)
    notes: tuple[str, ...] = ()
    if head_seed is not None:
        config, stored, notes = with_new_head(config, stored, head_seed)
    parts = (_read_packed if packed else _read_any)(location, config, stored)
    parts["notes"] = (*notes, *parts["notes"], *told)
    return Checkpoint(**parts, tokenizer_json=tokenizer_json, source=location.source, sha256=weights_sha256(files))


def refuse_longer_windows(checkpoint: Checkpoint, max_length: int) -> None:
    """Raise InputError where a window would be longer than the model can read."""
    longest = checkpoint.blank.longest_input
    if max_length > longest:
        raise InputError(
            f"windows of {max_length} tokens are longer than {checkpoint.source} can read: lower --max-length to "
            f"{longest}"
        )


def _read_any(location: Location, config: dict[str, Any], stored: dict[str, Tensor]) -> dict[str, Any]:
    """All formats but our own packed one: the fields of the Checkpoint that depend on the tensors."""
    family, sizes = family_of(config), structure_from_config(config)
    tensors, faults = canonical_tensors(family, stored)
    faults += value_faults(family, tensors)
    notes: tuple[str, ...] = ()
    if has_mask_scores(tensors):
        settings = read_sparse_settings(location.folder)
        tensors, config, more = apply_masks(family, tensors, config, settings)
        faults, notes = faults + more, (describe(settings),)
    widths, more = layer_widths(sizes, tensors)
    faults += more + tensor_faults(family, tensors, expected_shapes(sizes, widths))
    _refuse(location, config, tensors, faults)
    found, faults = stored_heads(sizes, pruned_heads(config), widths, tensors)
    _refuse(location, config, tensors, faults)
    return {
        "config": config,
        "tensors": tensors,
        "heads": found.heads,
        "head_ids": _marked(config, "head_ids") or found.head_ids,
        "ffn_positions": _marked(config, "ffn_positions") or ffn_positions(sizes, tensors),
        "structure": None,
        "notes": notes + found.notes,
    }


def _marked(config: dict[str, Any], name: str) -> Positions | None:
    """What `write_transformers` noted about this file, if it made it."""
    mark = config.get(MARK)
    value = mark.get(name) if isinstance(mark, dict) else None
    return value if value in get_args(Positions) else None


def _read_packed(location: Location, config: dict[str, Any], stored: dict[str, Tensor]) -> dict[str, Any]:
    """Our own packed format: everything is as structure.json says."""
    structure = Structure.read(location.folder / STRUCTURE_FILE)
    faults = _structure_faults(structure, config)
    if faults:
        raise CheckpointError(
            f"structure.json and config.json in {location.folder} contradict each other: {joined(faults)}"
        )
    expected = expected_shapes(structure, structure_widths(structure))
    family = family_of(config)
    tensors, faults = canonical_tensors(family, stored)
    for name, shape in expected.items():  # blocks that have nothing left are not written
        if 0 in shape and name not in tensors:
            tensors[name] = torch.zeros(shape)
    faults += value_faults(family, tensors) + tensor_faults(family, tensors, expected)
    _refuse(location, config, tensors, faults)
    return {
        "config": config,
        "tensors": tensors,
        "heads": tuple(layer.heads for layer in structure.layers),
        "head_ids": structure.head_ids,
        "ffn_positions": structure.ffn_positions,
        "structure": structure,
        "notes": (),
    }


def _structure_faults(structure: Structure, config: dict[str, Any]) -> list[str]:
    told = structure_from_config(config)
    return [
        f"{key} {getattr(structure, field)!r} and {getattr(told, field)!r}"
        for field, key in family_of(config).config_keys.items()
        if getattr(structure, field) != getattr(told, field)
    ]


def _refuse(location: Location, config: dict[str, Any], tensors: dict[str, Tensor], faults: list[str]) -> None:
    """Raise when there are faults, with all of them and, where one reason explains them, with it."""
    if not faults:
        return
    family = family_of(config)
    if "qa_outputs.weight" not in tensors:
        names = joined(architecture_names(config), ", ") or "the model"
        if family.architecture not in names:
            cure = "densepack finetune trains one; " if names in family.encoders else ""
            raise CheckpointError(f"{names} in {location.source} has no question-answering head: {cure}{supported()}")
    raise CheckpointError(
        f"the checkpoint {location.source} cannot be used, its tensors are at fault in {len(faults)} places"
        f"{prefix_hint(family, tensors)}: {joined(faults)}"
    )
