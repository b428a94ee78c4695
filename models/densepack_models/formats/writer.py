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

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from densepack_models.formats.checkpoint import MARK, STRUCTURE_FILE
from densepack_models.formats.config import ARCHITECTURE
from densepack_models.formats.tensors import QKV, layer_prefix
from densepack_models.formats.tokenizer import SPECIAL_TOKENS, tokenizer_config, vocabulary_lines
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.weights import tensors_from_module
from densepack_runtime.errors import CheckpointError, InputError
from densepack_runtime.host.files import new_folder
from densepack_runtime.structure import Structure

DTYPES = {torch.float32: "float32", torch.float16: "float16"}


def write_packed(
    packed: PackedBertForQuestionAnswering, folder: str | Path, *, tokenizer_json: str, overwrite: bool = False
) -> None:
    """Write densepack's own format. Raises InputError when `folder` exists and may not be replaced."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors_from_module(packed).items()}
    with new_folder(Path(folder), overwrite=overwrite) as temporary:
        write_json(temporary / "config.json", packed.config or config_from_structure(packed.structure))
        write_text(temporary / STRUCTURE_FILE, packed.structure.to_json())
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
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
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype} cannot be written, only {' and '.join(map(str, DTYPES))}")
    structure = packed.structure
    tensors = published_tensors(structure, tensors_from_module(packed))
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    overflowing = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if overflowing:
        raise CheckpointError(f"values beyond the range of {DTYPES[dtype]} in {', '.join(overflowing)}: write float32")
    config = packed.config | published_config(structure) | {"dtype": DTYPES[dtype]}
    config.pop("torch_dtype", None)  # the older name of the same field
    with new_folder(Path(folder), overwrite=overwrite) as temporary:
        write_json(temporary / "config.json", config)
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        write_text(temporary / "tokenizer.json", tokenizer_json)
        write_tokenizer_files(temporary, tokenizer_json, structure.max_position_embeddings)


# --- the published format ---------------------------------------------------------------------------------------------


def published_heads(structure: Structure) -> list[tuple[int, ...]]:
    """Heads of every layer that the published format stores: the survivors, or head 0 where there are none."""
    return [layer.heads or (0,) for layer in structure.layers]


def published_tensors(structure: Structure, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors at packed shapes, with FFN units back at their positions in zeros, and a zero head for an empty layer."""
    published = dict(tensors)
    hidden, full, dtype = structure.hidden_size, structure.intermediate_size, tensors["qa_outputs.weight"].dtype
    for index, layer in enumerate(structure.layers):
        prefix = layer_prefix(index)
        if not layer.heads:
            for name in QKV:
                published[f"{prefix}attention.self.{name}.weight"] = torch.zeros(
                    structure.head_size, hidden, dtype=dtype
                )
                published[f"{prefix}attention.self.{name}.bias"] = torch.zeros(structure.head_size, dtype=dtype)
            published[f"{prefix}attention.output.dense.weight"] = torch.zeros(hidden, structure.head_size, dtype=dtype)
        units = torch.tensor(layer.ffn_units, dtype=torch.long)
        for name, shape, axis in (
            ("intermediate.dense.weight", (full, hidden), 0),
            ("intermediate.dense.bias", (full,), 0),
            ("output.dense.weight", (hidden, full), 1),
        ):
            wide = torch.zeros(shape, dtype=dtype)
            if len(units):  # units beyond these only pad the width
                wide.index_copy_(axis, units, tensors[f"{prefix}{name}"].narrow(axis, 0, len(units)))
            published[f"{prefix}{name}"] = wide
    return published


def published_config(structure: Structure) -> dict[str, Any]:
    """The fields of config.json that describe the published format of a structure.

    A mark says what that format has no place for: whether ids of heads and positions of units are the original ones.
    """
    everything = set(range(structure.num_attention_heads))
    pruned = {str(index): sorted(everything - set(heads)) for index, heads in enumerate(published_heads(structure))}
    mark = {"head_ids": structure.head_ids, "ffn_positions": structure.ffn_positions}
    return config_from_structure(structure) | {"pruned_heads": pruned, MARK: mark}


def config_from_structure(structure: Structure) -> dict[str, Any]:
    """A transformers configuration with the sizes and kinds of a structure."""
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "bert",
        "vocab_size": structure.vocab_size,
        "max_position_embeddings": structure.max_position_embeddings,
        "type_vocab_size": structure.type_vocab_size,
        "hidden_size": structure.hidden_size,
        "num_hidden_layers": structure.num_layers,
        "num_attention_heads": structure.num_attention_heads,
        "intermediate_size": structure.intermediate_size,
        "hidden_act": structure.hidden_act,
        "layer_norm_eps": structure.layer_norm_eps,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }
    if structure.layer_norm_type != "layer_norm":
        config["layer_norm_type"] = structure.layer_norm_type
    return config


def write_tokenizer_files(folder: Path, tokenizer_json: str, max_length: int) -> None:
    """The files beside tokenizer.json that older tools read: vocab.txt and two settings files."""
    write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in vocabulary_lines(tokenizer_json)))
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer_json, max_length))
    write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 with the line ends as they are, on any system."""
    path.write_bytes(text.encode("utf-8"))
