"""Signatures as pybind11 writes them into docstrings: one line per overload, types by name, defaults by their repr.

signatures_in("f(self: pkg.Builder, flags: typing.SupportsInt = 0) -> int", "f")[0]["parameters"][0]["name"]  # flags
"""

from __future__ import annotations

import re
from typing import TypedDict

_SIGNATURE = re.compile(r"^(?:\d+\. )?(?P<name>\w*) ?\((?P<parameters>.*)\)(?: -> (?P<returns>.+))?$")
_OWN_PACKAGE = re.compile(r"\btensorrt(?:_rtx)?_bindings\.tensorrt(?:_rtx)?\.")


class Parameter(TypedDict):
    """`type` as the docstring has it, without the package's name; "" where it has none."""

    name: str
    type: str
    required: bool


class Signature(TypedDict):
    """`parameters` without self."""

    parameters: list[Parameter]
    returns: str


def signatures_in(docstring: str, name: str = "") -> list[Signature]:
    """Every overload that a docstring lists for the function of that name (accessors of properties have none)."""
    matches = [_SIGNATURE.match(_OWN_PACKAGE.sub("", line)) for line in docstring.splitlines()]
    found = [match for match in matches if match and match["name"] == name]
    plain = [match for match in found if match["parameters"] != "*args, **kwargs"]
    return [Signature(parameters=_parameters(match["parameters"]), returns=match["returns"] or "") for match in plain]


def accepts(signature: Signature, positional: int, keywords: frozenset[str]) -> bool:
    """Whether a call with so many arguments and these keywords fits; types are not looked at."""
    parameters = signature["parameters"]
    by_keyword = parameters[positional:]
    required = {parameter["name"] for parameter in by_keyword if parameter["required"]}
    return positional <= len(parameters) and required <= keywords <= {parameter["name"] for parameter in by_keyword}


def _parameters(text: str) -> list[Parameter]:
    parsed = [_parameter(part) for part in split_parameters(text)]
    return parsed[1:] if parsed and parsed[0]["name"] in ("self", "arg0") else parsed


def _parameter(text: str) -> Parameter:
    declared, _, default = text.partition(" = ")
    name, _, annotation = declared.partition(": ")
    return Parameter(name=name, type=annotation, required=not default)


def split_parameters(text: str) -> list[str]:
    """Parameters of a signature, split at the commas outside brackets; '<' and '>' are brackets in default values."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        if letter in "([{<":
            depth += 1
        elif letter in ")]}" or (letter == ">" and text[position - 1] != "-"):
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
