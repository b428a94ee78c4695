"""Records (dataclasses) from JSON documents and back: every type is checked, and a fault is one line that says where.

    STRUCTURE = Document("structure.json", CheckpointError, "pack the checkpoint again with this version")
    structure = STRUCTURE.parse(text, Structure)

A field with a default may be missing, as in documents that are older than it; an unknown field is a fault. What a
document tells beside the fields of a record, since it follows from them, is the record's property `derived`: written
for other readers, and passed over here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from densepack_runtime.errors import DensepackError, joined
from densepack_runtime.host.strict_json import parse_json, read_small

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Document:
    """A kind of document: what it is called, the error that a fault in one raises, and what to do about it."""

    name: str
    error: type[DensepackError]
    cure: str

    def parse(self, text: str | bytes, kind: type[Record]) -> Record:
        """The record that a JSON text holds."""
        try:
            data = parse_json(text, measured=True)
        except ValueError as error:
            raise self._fault(f"it is not JSON: {error}") from error
        return self.record(data, kind)

    def read(self, path: Path, kind: type[Record]) -> Record:
        """The record that a JSON file holds."""
        try:
            text = read_small(path)
        except OSError as error:
            raise self.error(f"{path} cannot be read: {error.strerror}") from error
        return self.parse(text, kind)

    def record(self, data: object, kind: type[Record]) -> Record:
        """The record that JSON data holds; what the record itself refuses is a fault of the document."""
        import msgspec  # takes 20 ms, which no host pays that reads nothing

        try:
            record = msgspec.convert(data, kind)
        except (msgspec.ValidationError, DensepackError) as error:
            raise self._fault(str(error).replace("`$.", "`").replace("`$", "`")) from error
        if unknown := [f"`{place}`" for place in _unknown_fields(record, data)]:
            raise self._fault(f"unknown: {joined(unknown, ', ')}")
        return record

    def _fault(self, told: str) -> DensepackError:
        return self.error(f"{self.name} cannot be read ({joined([' '.join(told.split())])}): {self.cure}")


def data_from_record(record: Any) -> Any:
    """JSON data: what the record derives first, then its fields."""
    if is_dataclass(record):
        told = {field.name: data_from_record(getattr(record, field.name)) for field in fields(record)}
        return {**_derived(record), **told}
    if isinstance(record, dict):
        return {name: data_from_record(value) for name, value in record.items()}
    return [data_from_record(value) for value in record] if isinstance(record, tuple) else record


def _derived(record: Any) -> dict[str, Any]:
    return getattr(record, "derived", {})


def _unknown_fields(record: Any, data: Any, place: str = "") -> Iterator[str]:
    """Where the data of a record has what neither its fields nor `derived` name; msgspec passes over that."""
    if is_dataclass(record):
        names = {field.name for field in fields(record)}
        yield from (f"{place}{name}" for name in sorted(data.keys() - names - _derived(record).keys()))
        for name in sorted(names & data.keys()):
            yield from _unknown_fields(getattr(record, name), data[name], f"{place}{name}.")
    elif isinstance(record, dict | tuple) and record:
        keys = list(record) if isinstance(record, dict) else range(len(record))
        if is_dataclass(record[keys[0]]):
            for key in keys:
                yield from _unknown_fields(record[key], data[key], f"{place.removesuffix('.')}[{key!r}].")
