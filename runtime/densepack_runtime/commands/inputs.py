"""What commands read from a file, or from stdin where it is called -."""

from __future__ import annotations

import sys
from io import FileIO
from pathlib import Path

from densepack_runtime.errors import InputError


def open_input(name: str, what: str) -> FileIO:
    """The bytes of a file, or of stdin for -. Raises InputError when there are none to read."""
    try:
        if name != "-":
            return FileIO(name)
        if sys.stdin is None:  # Python found it closed
            raise InputError(f"the {what} cannot be read from stdin: it is closed")
        return FileIO(sys.stdin.fileno(), closefd=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the {what} cannot be read: {error}") from error


def read_context(path: Path) -> str:
    """The text of a UTF-8 file, every character of it but a BOM. Raises InputError."""
    with open_input(str(path), "context") as file:
        try:
            return file.readall().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the context cannot be read from {path}: {error}") from error
