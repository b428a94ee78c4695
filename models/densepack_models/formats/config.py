"""config.json of a checkpoint: what the model says it is, and whether densepack can read that.

Everything that is wrong with a configuration is reported at once; a model of another architecture is refused by name.

    config = read_config(folder)            # judged, and completed with the family's defaults
    structure_from_config(config)           # its sizes and kinds
    pruned_heads(config)                    # {layer: frozenset of original head ids}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError, joined
from densepack_runtime.structure import (
    LARGEST_NORM_EPS,
    SIZES,
    Activation,
    LayerNormType,
    LayerStructure,
    Structure,
)

# Two names of transformers for functions that exist under a third; mathematically the same.
ACTIVATION_ALIASES = {"gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_new"}
ACTIVATIONS = get_args(Activation)
LAYER_NORM_TYPES = get_args(LayerNormType)


def supported() -> str:
    """What can be read, in words."""
    return (
        f"densepack reads {', '.join(family.architecture for family in FAMILIES)} only (model_type "
        f"{', '.join(repr(family.model_type) for family in FAMILIES)}, an encoder with absolute positions, "
        f"hidden_act {', '.join((*ACTIVATIONS, *ACTIVATION_ALIASES))}, layer_norm_type {' or '.join(LAYER_NORM_TYPES)})"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the checkpoint in `folder`, judged and completed. Raises CheckpointError."""
    config = read_json_object(folder / "config.json", f"it is needed to read a checkpoint; {supported()}")
    return judged_config(config)


def judged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with defaults filled in and activation aliases resolved. Raises CheckpointError with all faults."""
    family = family_of(config)
    complete: dict[str, Any] = {**family.defaults, **config}
    faults = [*_size_faults(complete, family), *_kind_faults(complete, family.config_keys)]
    if not faults and not (faults := _pad_faults(complete, family.config_keys)):
        _, faults = _parse_pruned_heads(complete, structure_from_config(complete))
    if faults:
        raise CheckpointError(f"config.json cannot be used: {joined(faults)}")
    activation = family.config_keys["hidden_act"]
    complete[activation] = ACTIVATION_ALIASES.get(complete[activation], complete[activation])
    if (eps := family.config_keys.get("layer_norm_eps")) is not None:
        complete[eps] = float(complete[eps])
    return complete


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of the model that a configuration describes. Raises CheckpointError when there is none."""
    names = architecture_names(config)
    for family in FAMILIES:
        model_type = config.get("model_type", family.model_type if family.architecture in names else None)
        model = family.architecture.removesuffix("ForQuestionAnswering")
        if model_type == family.model_type and (not names or any(name.startswith(model) for name in names)):
            return family
    seen = f"model_type {shortened(config.get('model_type'))}" + (f", {', '.join(names)}" if names else "")
    raise CheckpointError(f"this model is of an unsupported architecture ({joined([seen])}): {supported()}")


def architecture_names(config: Mapping[str, Any]) -> list[str]:
    """The classes that a configuration names, if any."""
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def structure_from_config(config: Mapping[str, Any]) -> Structure:
    """Sizes and kinds of the model that a judged configuration describes, with nothing in its layers."""
    family = family_of(config)
    fields: dict[str, Any] = {**family.fixed}
    fields |= {field: config[key] for field, key in family.config_keys.items() if key in config}
    return Structure(layers=(LayerStructure((), (), 0),) * fields.pop("num_layers"), **fields)


def config_from_structure(structure: Structure, family: Family) -> dict[str, Any]:
    """A transformers configuration with the sizes and kinds of a structure."""
    config = {key: getattr(structure, field) for field, key in family.config_keys.items()}
    if structure.layer_norm_type == "layer_norm":  # transformers knows no other
        config.pop(family.config_keys.get("layer_norm_type", ""), None)
    named = {"architectures": [family.architecture], "model_type": family.model_type}
    pad = 0 if structure.position_pad_id is None else structure.position_pad_id
    return config | named | {"position_embedding_type": "absolute", "pad_token_id": pad}


def pruned_heads(config: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    """`pruned_heads` of a judged configuration: layer to original head ids. A layer that is not named is not a key."""
    heads, _ = _parse_pruned_heads(config, structure_from_config(config))
    return heads


def _size_faults(config: Mapping[str, Any], family: Family) -> list[str]:
    keys, faults = family.config_keys, []
    for field, (_, most) in SIZES.items():
        name = keys.get(field)
        if name is None:
            continue
        if name not in config:
            faults.append(f"{name} is missing")
        elif type(config[name]) is not int or not 1 <= config[name] <= most:
            faults.append(f"{name} is {shortened(config[name])}, a whole number above 0 and up to {most} is needed")
    if faults:
        return faults
    hidden, heads = keys["hidden_size"], keys["num_attention_heads"]
    if config[hidden] % config[heads]:
        faults.append(f"{hidden} {config[hidden]} is not a multiple of {heads} {config[heads]}")
    fed = family.fixed.get("token_types", "fed") == "fed"
    if fed and config[types := keys["type_vocab_size"]] < 2:
        faults.append(f"{types} is 1, question answering needs 2 token types")
    return faults


def _kind_faults(config: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    faults = []
    activation, eps = config[keys["hidden_act"]], config.get(keys.get("layer_norm_eps", ""), LARGEST_NORM_EPS)
    norm = config.get(keys.get("layer_norm_type", ""), "layer_norm")
    if activation not in (*ACTIVATIONS, *ACTIVATION_ALIASES):
        supported = ", ".join((*ACTIVATIONS, *ACTIVATION_ALIASES))
        faults.append(f"{keys['hidden_act']} {shortened(activation)} is not supported, only {supported}")
    if norm not in LAYER_NORM_TYPES:
        faults.append(f"layer_norm_type {shortened(norm)} is not supported, only {' and '.join(LAYER_NORM_TYPES)}")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps <= LARGEST_NORM_EPS:
        faults.append(f"layer_norm_eps is {shortened(eps)}, a small number above 0 is needed")
    position_type = config.get("position_embedding_type") or "absolute"
    if position_type != "absolute":
        faults.append(f"position_embedding_type {shortened(position_type)} is not supported, only absolute")
    faults += [
        f"{name} is set: only encoders are supported"
        for name in ("is_decoder", "add_cross_attention")
        if config.get(name)
    ]
    if config.get("quantization_config"):
        faults.append("quantization_config is set: quantised weights are not supported, take the float checkpoint")
    return faults


def _pad_faults(config: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """The padding token has to be a word of the model; -1 stands for none in some models."""
    pad, words = config.get("pad_token_id"), config[keys["vocab_size"]]
    if pad is None or (type(pad) is int and -words <= pad < words):
        return []
    return [f"pad_token_id is {shortened(pad)}, and the model has {words} word embeddings"]


def _parse_pruned_heads(config: Mapping[str, Any], sizes: Structure) -> tuple[dict[int, frozenset[int]], list[str]]:
    """Heads by layer and the faults found. Keys may be strings or ints; lists unsorted, repeated or empty."""
    stored = config.get("pruned_heads") or {}
    if not isinstance(stored, Mapping):
        return {}, [f"pruned_heads must map layers to lists of heads, it is {shortened(stored)}"]
    heads: dict[int, frozenset[int]] = {}
    faults = []
    for key, listed in stored.items():
        layer = _index(key, sizes.num_layers)
        if layer is None:
            faults.append(f"pruned_heads names layer {shortened(key)}, there are layers 0 to {sizes.num_layers - 1}")
            continue
        ids = [_index(head, sizes.num_attention_heads) for head in listed] if isinstance(listed, list) else [None]
        if None in ids:
            last = sizes.num_attention_heads - 1
            faults.append(
                f"pruned_heads of layer {layer} is {shortened(listed)}, a list of heads 0 to {last} is needed"
            )
            continue
        heads[layer] = heads.get(layer, frozenset()) | {head for head in ids if head is not None}
    return heads, faults


def _index(value: object, count: int) -> int | None:
    """`value` as an index below `count`: an int, or its decimal digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if type(value) is int and 0 <= value < count else None
