"""Repairs what pybind11-stubgen takes over from C++ and Python, or mypy, reads otherwise.

    text = repaired_stub(text)

The stubs of TensorRT 10.16 and 11.4 do not parse without this; the rest makes correct calls pass a strict check.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator

_DEFINITION = re.compile(r"^(?P<head> *def (?P<name>\w+))\((?P<parameters>.*)\)(?P<returns>(?: -> .*)?:.*)$")
# A callback that says "-> None" and, in its description, ":returns: True on success, False otherwise".
_RETURNS_BOOL = {"process_debug_tensor"}
_ATTRIBUTE = re.compile(r"^( +\w+: .*)$")
# The C++ classes convert any sequence of numbers to Dims, and are buffers and iterables through slots that the
# generator does not look at.
_ADDED = {
    "Dims": "    def __iter__(self) -> collections.abc.Iterator[int]: ...",
    "IHostMemory": "    def __buffer__(self, flags: int, /) -> memoryview: ...",
}


def repaired_stub(text: str) -> str:
    """A stub that parses. Raises RuntimeError with the line where it still does not."""
    lines = ["# mypy: ignore-errors", *_repaired_lines(text.splitlines())]
    first_import = next(number for number, line in enumerate(lines) if line.startswith("import "))
    lines[first_import:first_import] = ["import builtins"]
    repaired = "\n".join(lines) + "\n"
    try:
        ast.parse(repaired)
    except SyntaxError as error:
        raise RuntimeError(f"the repaired stub does not parse, {error.msg}: {(error.text or '').strip()}") from error
    return repaired


def _repaired_lines(lines: list[str]) -> Iterator[str]:
    for line in lines:
        definition = _DEFINITION.match(line)
        if definition:
            parameters = _repaired_parameters(definition["parameters"])
            returns = " -> bool:" if definition["name"] in _RETURNS_BOOL else definition["returns"]
            yield f"{definition['head']}({parameters}){_true_bool(returns)}"
        else:
            yield _true_bool(line) if _ATTRIBUTE.match(line) else line
        started = re.match(r"class (\w+)", line)
        if started and started[1] in _ADDED:
            yield _ADDED[started[1]]


def _true_bool(text: str) -> str:
    """The module has a name `bool` of its own, a DataType, which hides the builtin."""
    return re.sub(r"(?<![\w.])bool\b", "builtins.bool", text)


def _repaired_parameters(text: str) -> str:
    repaired: list[str] = []
    for parameter in split_parameters(text):
        mended = _repaired_parameter(parameter)
        if any("=" in earlier for earlier in repaired) and "=" not in mended and not mended.startswith(("*", "/")):
            mended += " = ..."  # Python allows none without a default after one with
        repaired.append(mended)
    return ", ".join(repaired)


def _repaired_parameter(parameter: str) -> str:
    name, colon, rest = parameter.partition(": ")
    if not colon:
        return parameter
    if name == "self":
        return name  # often annotated with another class
    if keyword.iskeyword(name):
        name += "_"
    annotation, equals, default = rest.partition(" = ")
    annotation = re.sub(r"^Dims$", "Dims | collections.abc.Sequence[int]", _true_bool(annotation))
    annotation = annotation.replace("typing.SupportsInt", "int")  # what TensorRT hands to callbacks is an int
    if default == "None" and "None" not in annotation:
        annotation += " | None"
    return f"{name}: {annotation}{equals}{default}"


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
