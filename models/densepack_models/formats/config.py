"""config.json of a checkpoint: what the model says it is, and whether densepack can read that.

Everything that is wrong with a configuration is reported at once; a model of another architecture is refused by name.

    config = read_config(folder)            # judged, and completed with BertConfig's defaults
    pruned_heads(config)                    # {layer: frozenset of original head ids}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError
from densepack_runtime.structure import Activation, LayerNormType

ARCHITECTURE = "BertForQuestionAnswering"
# Two names of transformers for functions that exist under a third; mathematically the same.
ACTIVATION_ALIASES = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_new"}
ACTIVATIONS = get_args(Activation)
LAYER_NORM_TYPES = get_args(LayerNormType)
SUPPORTED = (
    f"densepack reads {ARCHITECTURE} only (model_type 'bert', an encoder with absolute positions, "
    f"hidden_act {', '.join((*ACTIVATIONS, *ACTIVATION_ALIASES))}, layer_norm_type {' or '.join(LAYER_NORM_TYPES)})"
)
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# What BertConfig means when a file leaves a field out. The sizes of the layers have to be there.
DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the checkpoint in `folder`, judged and completed. Raises CheckpointError."""
    config = read_json_object(folder / "config.json", f"it is needed to read a checkpoint; {SUPPORTED}")
    return judged_config(config)


def judged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with defaults filled in and activation aliases resolved. Raises CheckpointError with all faults."""
    _refuse_other_models(config)
    complete = DEFAULTS | dict(config)
    faults = [*_size_faults(complete), *_kind_faults(complete)]
    if not faults:
        _, faults = _parse_pruned_heads(complete)
    if faults:
        raise CheckpointError(f"config.json cannot be used: {'; '.join(faults)}")
    complete["hidden_act"] = ACTIVATION_ALIASES.get(complete["hidden_act"], complete["hidden_act"])
    return complete


def pruned_heads(config: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    """`pruned_heads` of a judged configuration: layer to original head ids. A layer that is not named is not a key."""
    heads, _ = _parse_pruned_heads(config)
    return heads


def _refuse_other_models(config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    model_type = config.get("model_type", "bert" if ARCHITECTURE in names else None)
    if model_type == "bert" and (not names or any(name.startswith("Bert") for name in names)):
        return
    seen = f"model_type {model_type!r}" + (f", {', '.join(names)}" if names else "")
    raise CheckpointError(f"this model is of an unsupported architecture ({seen}): {SUPPORTED}")


def _size_faults(config: Mapping[str, Any]) -> list[str]:
    faults = []
    for name in SIZES:
        if name not in config:
            faults.append(f"{name} is missing")
        elif type(config[name]) is not int or config[name] < 1:
            faults.append(f"{name} is {config[name]!r}, a whole number above 0 is needed")
    if faults:
        return faults
    if config["hidden_size"] % config["num_attention_heads"]:
        faults.append(
            f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    if config["type_vocab_size"] < 2:
        faults.append("type_vocab_size is 1, question answering needs 2 token types")
    return faults


def _kind_faults(config: Mapping[str, Any]) -> list[str]:
    faults = []
    activation, norm = config["hidden_act"], config.get("layer_norm_type", "layer_norm")
    if activation not in (*ACTIVATIONS, *ACTIVATION_ALIASES):
        supported = ", ".join((*ACTIVATIONS, *ACTIVATION_ALIASES))
        faults.append(f"hidden_act {activation!r} is not supported, only {supported}")
    if norm not in LAYER_NORM_TYPES:
        faults.append(f"layer_norm_type {norm!r} is not supported, only {' and '.join(LAYER_NORM_TYPES)}")
    eps = config["layer_norm_eps"]
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not (math.isfinite(eps) and eps > 0):
        faults.append(f"layer_norm_eps is {eps!r}, a small number above 0 is needed")
    position_type = config.get("position_embedding_type") or "absolute"
    if position_type != "absolute":
        faults.append(f"position_embedding_type {position_type!r} is not supported, only absolute")
    faults += [
        f"{name} is set: only encoders are supported"
        for name in ("is_decoder", "add_cross_attention")
        if config.get(name)
    ]
    if config.get("quantization_config"):
        faults.append("quantization_config is set: quantised weights are not supported, take the float checkpoint")
    return faults


def _parse_pruned_heads(config: Mapping[str, Any]) -> tuple[dict[int, frozenset[int]], list[str]]:
    """Heads by layer and the faults found. Keys may be strings or ints; lists unsorted, repeated or empty."""
    stored = config.get("pruned_heads") or {}
    if not isinstance(stored, Mapping):
        return {}, [f"pruned_heads must map layers to lists of heads, it is {stored!r}"]
    heads: dict[int, frozenset[int]] = {}
    faults = []
    for key, listed in stored.items():
        layer = _index(key, config["num_hidden_layers"])
        if layer is None:
            faults.append(f"pruned_heads names layer {key!r}, there are layers 0 to {config['num_hidden_layers'] - 1}")
            continue
        ids = [_index(head, config["num_attention_heads"]) for head in listed] if isinstance(listed, list) else [None]
        if None in ids:
            last = config["num_attention_heads"] - 1
            faults.append(f"pruned_heads of layer {layer} is {listed!r}, a list of heads 0 to {last} is needed")
            continue
        heads[layer] = heads.get(layer, frozenset()) | {head for head in ids if head is not None}
    return heads, faults


def _index(value: object, count: int) -> int | None:
    """`value` as an index below `count`: an int, or its decimal digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value if type(value) is int and 0 <= value < count else None
