"""Measurement files that cards and reports are made of: JSON documents that densepack wrote earlier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError
from densepack_runtime.host.records import Document, Record


def measurement(path: Path) -> Document:
    return Document(str(path), InputError, "was it written by densepack?")


def read_json(path: Path, kind: type[Record]) -> Record:
    """The record in a file. Raises InputError when the file holds none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return measurement(path).parse(text, kind)


def read_measurement(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError when there is none, or when it lacks one of the needed fields."""
    document = read_json(path, dict[str, Any])
    if missing := [name for name in needed if name not in document]:
        raise InputError(f"{path} lacks {', '.join(missing)}: was it written by densepack?")
    return document
