"""Files of a checkpoint that are JSON or other text: read with errors that name them, written alike on any system.

config = read_json_object(folder / "config.json", if_missing="it says what the model is")
write_json(folder / "config.json", config)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densepack_runtime.errors import CheckpointError
from densepack_runtime.host.strict_json import parse_json, read_small


def read_json_object(path: Path, if_missing: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError that names the file; `if_missing` says why it is needed."""
    try:
        data = parse_json(read_small(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing in {path.parent}: {if_missing}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, it holds a {type(data).__name__}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Keys in the order of their names."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 with the line ends as they are, on any system."""
    path.write_bytes(text.encode("utf-8"))
