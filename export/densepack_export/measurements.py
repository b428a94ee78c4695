"""Measurement files that cards and reports are made of: JSON documents that densepack wrote earlier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError


def read_measurement(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError when there is none, or when it lacks one of the needed fields."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    missing = [name for name in needed if not isinstance(document, dict) or name not in document]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: was it written by densepack?")
    return dict(document)
