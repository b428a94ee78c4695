"""sparse_args.json: what the scores in a training checkpoint of nn_pruning mean (names as in its version 0.1.2).

settings = read_sparse_settings(folder)
settings.ffn, settings.threshold            # MaskRule("sigmoied_threshold", "1d_alt", (1, 1)), 0.1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from densepack_models.formats.json_files import read_json_object
from densepack_models.formats.score_methods import LEAST_SHARE
from densepack_runtime.errors import CheckpointError

METHODS = ("sigmoied_threshold", "threshold", "topK", "magnitude", "l0")  # nn_pruning's spelling
FORMS = ("default", "1d", "1d_alt")  # not "joint": nn_pruning itself fails on it
# Scores are of the size of 1: beyond it a threshold passes all or none.
LARGEST_THRESHOLD = 1e6


@dataclass(frozen=True, slots=True)
class MaskRule:
    """How scores become the mask of one matrix.

    `block` is rows by columns of W. `form` is default (a grid of scores), 1d (a vector for the rows times one for the
    columns) or 1d_alt (only one of the two).
    """

    method: str
    form: str
    block: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SparseSettings:
    """What sparse_args.json says. A rule that is None leaves its matrices as they are."""

    query_key_value: MaskRule | None
    attention_output: MaskRule | None
    ffn: MaskRule | None
    threshold: float
    least_share: float
    mask_biases: bool
    norms_to_no_norm: bool
    gelu_to_relu: bool


def read_sparse_settings(folder: Path) -> SparseSettings:
    """The settings beside a training checkpoint. Raises CheckpointError with all that is missing or unsupported."""
    args = read_json_object(
        folder / "sparse_args.json",
        "the weights come with mask_scores, and without the settings of that training nobody knows which of them count",
    )
    return sparse_settings(args)


def sparse_settings(args: Mapping[str, Any]) -> SparseSettings:
    """Judge the contents of sparse_args.json. Raises CheckpointError with all that is missing or unsupported."""
    faults: list[str] = []
    attention = _rule(args, "attention", faults)
    dense = _rule(args, "dense", faults)
    if attention and attention.form != "default":
        faults.append(f"attention_pruning_method has the form {attention.form!r}, which only FFN matrices can have")
    if args.get("ampere_pruning_method", "disabled") != "disabled":
        faults.append(f"ampere_pruning_method {args['ampere_pruning_method']!r} is not supported, only 'disabled'")
    if args.get("rewind_model_name_or_path"):
        faults.append(
            f"rewind_model_name_or_path {args['rewind_model_name_or_path']!r}: the heads of that other model took part "
            "in the masks and are not in this checkpoint"
        )
    threshold = _number(args, "final_threshold", None, faults, least=-LARGEST_THRESHOLD, most=LARGEST_THRESHOLD)
    least_share = _number(args, "linear_min_parameters", LEAST_SHARE, faults, least=0, most=1)
    switches = {
        name: _switch(args, name, default, faults)
        for name, default in (
            ("attention_output_with_dense", True),
            ("bias_mask", False),  # older versions of nn_pruning had no such setting and left biases alone
            ("layer_norm_patch", False),
            ("gelu_patch", False),
        )
    }
    if faults:
        raise CheckpointError(
            f"the masks of this training checkpoint cannot be made from sparse_args.json: {'; '.join(faults)}"
        )
    transposed = MaskRule(attention.method, attention.form, attention.block[::-1]) if attention else None
    return SparseSettings(
        query_key_value=attention,
        attention_output=dense if switches["attention_output_with_dense"] else transposed,
        ffn=dense,
        threshold=threshold,
        least_share=least_share,
        mask_biases=switches["bias_mask"],
        norms_to_no_norm=switches["layer_norm_patch"],
        gelu_to_relu=switches["gelu_patch"],
    )


def _rule(args: Mapping[str, Any], part: str, faults: list[str]) -> MaskRule | None:
    name = f"{part}_pruning_method"
    text = args.get(name)
    if text == "disabled":
        return None
    if not isinstance(text, str):
        faults.append(f"{name} is missing" if name not in args else f"{name} is {text!r}, a text is needed")
        return None
    method, _, form = text.partition(":")
    form = form or "default"
    if method not in METHODS or form not in FORMS:
        faults.append(f"{name} {text!r} is not supported, only {', '.join(METHODS)}, alone or with :1d or :1d_alt")
    sides = []
    for side in ("rows", "cols"):
        value = args.get(f"{part}_block_{side}")
        if type(value) is not int or value < 1:
            faults.append(f"{part}_block_{side} is {value!r}, a whole number above 0 is needed")
            value = 1
        sides.append(value)
    return MaskRule(method, form, (sides[0], sides[1]))


def _number(
    args: Mapping[str, Any], name: str, default: float | None, faults: list[str], *, least: float, most: float
) -> float:
    value = args.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        told = f"{name} is {shortened(value)}, a number from {least:g} to {most:g} is needed"
        faults.append(told if name in args else f"{name} is missing")
        return 0.0
    return float(value)


def _switch(args: Mapping[str, Any], name: str, default: bool, faults: list[str]) -> bool:
    value = args.get(name, default)
    if not isinstance(value, bool):
        faults.append(f"{name} is {value!r}, true or false is needed")
    return bool(value)


def describe(settings: SparseSettings) -> str:
    """One line on what was applied."""
    rules = {"q, k, v": settings.query_key_value, "attention output": settings.attention_output, "FFN": settings.ffn}
    parts = [
        f"{name} {rule.method} in blocks of {rule.block[0]}x{rule.block[1]}" if rule else f"{name} unmasked"
        for name, rule in rules.items()
    ]
    return f"masks applied at the final threshold {settings.threshold:g}: {'; '.join(parts)}"
