"""The text of a config.pbtxt: what protobuf's text format needs for one, without protobuf.

config_text({"name": "m", "input": [{"name": "x", "data_type": Symbol("TYPE_INT64"), "dims": [-1]}]})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# By field: a scalar, a message (a mapping), or a list of either for a repeated field.
Fields = Mapping[str, Any]


class Symbol(str):
    """The name of an enum's value: written as it is, where a text is quoted."""

    __slots__ = ()


def config_text(fields: Fields) -> str:
    """One line a scalar, a block a message, repeated fields one entry after another."""
    return "".join(f"{line}\n" for line in _lines(fields, ""))


def map_entries(values: Mapping[str, Any]) -> Sequence[Fields]:
    """A map, as the text format writes one."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _lines(fields: Fields, indent: str) -> Iterator[str]:
    for name, value in fields.items():
        for entry in value if isinstance(value, list | tuple) else [value]:
            if isinstance(entry, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(entry, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_scalar(entry)}"


def _scalar(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, Symbol | int) else f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Printable ASCII as it is, every other byte of its UTF-8 in octal: that needs no other rule."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in '"\\' else f"\\{byte:03o}" for byte in text.encode()
    )
