"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from densepack_runtime.errors import CheckpointError


def read_json_object(path: Path, if_missing: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError that names the file; `if_missing` says why it is needed."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing in {path.parent}: {if_missing}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, it holds a {type(data).__name__}")
    return data
