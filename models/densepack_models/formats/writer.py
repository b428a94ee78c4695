"""Writing packed models: in densepack's own format, or in the one that pruned models were published in.

Own format: config.json, structure.json, model.safetensors at packed shapes, tokenizer.json. Weights are unscaled, so
that reading and packing again gives the same module, bit for bit.

Published format: heads cut and named in `pruned_heads`, FFN at full width with zeros in place of the units that are
gone. Attention without any head keeps its first one as zeros, because other tools cannot build an empty one; what such
an attention still adds, its output bias, is where it always is. Everything goes to a temporary folder that is renamed
last.

    write_packed(packed, "packed/", tokenizer_json=checkpoint.tokenizer_json)
    write_transformers(packed, "published/", tokenizer_json=checkpoint.tokenizer_json, dtype=torch.float16)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.checkpoint import MARK, STRUCTURE_FILE
from densepack_models.formats.config import config_from_structure, family_of
from densepack_models.formats.json_files import read_json_object, write_json, write_text
from densepack_models.formats.tensors import HEAD_AXES, UNIT_AXES, spread
from densepack_models.formats.tokenizer import (
    SPECIAL_TOKENS,
    finished_tokenizer_config,
    is_wordpiece,
    tokenizer_config,
    vocabulary_lines,
)
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.weights import tensors_from_module
from densepack_runtime.errors import CheckpointError, InputError
from densepack_runtime.host.folders import new_folder
from densepack_runtime.sessions.session import graph_inputs
from densepack_runtime.structure import Structure, TokenTypes

# What the commands that train and `densepack card` put beside the files of a checkpoint; pictures, too.
RECORD, LOG, CARD = "training.json", "training_log.csv", "README.md"
_WRITTEN = {
    *("config.json", STRUCTURE_FILE, "model.safetensors", "tokenizer.json"),
    *("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", RECORD, LOG, CARD),
}
DTYPES = {torch.float32: "float32", torch.float16: "float16"}


def write_packed(
    packed: PackedBertForQuestionAnswering, folder: str | Path, *, tokenizer_json: str, overwrite: bool = False
) -> None:
    """Write densepack's own format. Raises InputError when `folder` exists and may not be replaced."""
    config = packed.config or config_from_structure(packed.structure, FAMILIES[0])
    stored = family_of(config).file_names(tensors_from_module(packed))
    with new_folder(Path(folder), replaces=strangers_in if overwrite else None) as temporary:
        write_json(temporary / "config.json", config)
        write_text(temporary / STRUCTURE_FILE, packed.structure.to_json())
        save_tensors(stored, temporary / "model.safetensors")
        write_text(temporary / "tokenizer.json", tokenizer_json)


def write_transformers(
    packed: PackedBertForQuestionAnswering,
    folder: str | Path,
    *,
    tokenizer_json: str,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> None:
    """Write the published format in float32 or float16.

    FFN units go back to the positions that the structure knows. Raises InputError for another dtype or a folder that
    may not be replaced, CheckpointError that names the tensors that do not fit float16.
    """
    with new_transformers(packed, Path(folder), tokenizer_json=tokenizer_json, dtype=dtype, overwrite=overwrite):
        pass


@contextmanager
def new_transformers(
    packed: PackedBertForQuestionAnswering,
    folder: Path,
    *,
    tokenizer_json: str,
    dtype: torch.dtype,
    overwrite: bool,
) -> Iterator[Path]:
    """The same, in a temporary folder to which more can be added before it becomes `folder`."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype} cannot be written, only {' and '.join(map(str, DTYPES))}")
    structure = packed.structure
    config = packed.config or config_from_structure(structure, FAMILIES[0])
    family = family_of(config)
    published = family.file_names(published_tensors(structure, tensors_from_module(packed)))
    stored = {name: tensor.to(dtype) for name, tensor in published.items()}
    overflowing = [name for name, tensor in stored.items() if not torch.isfinite(tensor).all()]
    if overflowing:
        raise CheckpointError(f"values beyond the range of {DTYPES[dtype]} in {', '.join(overflowing)}: write float32")
    config = config | published_config(structure, family) | {"dtype": DTYPES[dtype]}
    config.pop("torch_dtype", None)  # the older name of the same field
    with new_folder(folder, replaces=strangers_in if overwrite else None) as temporary:
        write_json(temporary / "config.json", config)
        save_tensors(stored, temporary / "model.safetensors")
        write_text(temporary / "tokenizer.json", tokenizer_json)
        write_tokenizer_files(temporary, tokenizer_json, structure.longest_input, structure.token_types)
        yield temporary


def strangers_in(folder: Path) -> list[str]:
    """What a folder holds that was not written here: everything, where it is no checkpoint of densepack."""
    found = {path.name for path in folder.iterdir()}
    try:
        ours = STRUCTURE_FILE in found or MARK in read_json_object(folder / "config.json", "")
    except CheckpointError:
        ours = False
    return sorted(name for name in found if not ours or (name not in _WRITTEN and not name.endswith(".svg")))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError where the disk is full, as every other writer does."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with write_errors(path):
        save_file(contiguous, path, metadata={"format": "pt"})


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """What safetensors and torch raise where a file cannot be written becomes OSError."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"{path} cannot be written: {error}") from error


# --- the published format ---------------------------------------------------------------------------------------------


def published_heads(structure: Structure) -> list[tuple[int, ...]]:
    """Heads of every layer that the published format stores: the survivors, or head 0 where there are none."""
    return [layer.heads or (0,) for layer in structure.layers]


def published_tensors(structure: Structure, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors at packed shapes, with FFN units back at their positions in zeros, and a zero head for an empty layer."""
    published = dict(tensors)
    for index, layer in enumerate(structure.layers):
        if not layer.heads:
            spread(published, index, HEAD_AXES, places=(), size=structure.head_size)
        spread(published, index, UNIT_AXES, places=layer.ffn_units, size=structure.intermediate_size)
    return published


def published_config(structure: Structure, family: Family) -> dict[str, Any]:
    """The fields of config.json that describe the published format of a structure.

    A mark says what that format has no place for: whether ids of heads and positions of units are the original ones.
    """
    everything = set(range(structure.num_attention_heads))
    pruned = {str(index): sorted(everything - set(heads)) for index, heads in enumerate(published_heads(structure))}
    mark = {"head_ids": structure.head_ids, "ffn_positions": structure.ffn_positions}
    return config_from_structure(structure, family) | {"pruned_heads": pruned, MARK: mark}


def write_tokenizer_files(folder: Path, tokenizer_json: str, max_length: int, token_types: TokenTypes = "fed") -> None:
    """The files beside tokenizer.json that other tools read: settings, and for WordPiece vocab.txt."""
    if not is_wordpiece(tokenizer_json):
        write_json(folder / "tokenizer_config.json", finished_tokenizer_config(tokenizer_json, max_length))
        return
    # A BertTokenizer gives token types where nobody says otherwise, which a model without them does not take.
    inputs = {} if token_types == "fed" else {"model_input_names": list(graph_inputs(token_types))}
    write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in vocabulary_lines(tokenizer_json)))
    write_json(folder / "tokenizer_config.json", {**tokenizer_config(tokenizer_json, max_length), **inputs})
    write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)
