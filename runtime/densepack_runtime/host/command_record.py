"""The command line as documents keep it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def told_command(arguments: Sequence[str]) -> str:
    """The command line with file names in place of paths, which are nobody else's business."""
    return shlex.join(["densepack", *map(_without_folders, arguments)])


def _without_folders(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if argument.startswith("--") and not equals:
        return argument
    source, at, variant = value.partition("@")
    return f"{option}{equals}{Path(source).name or source}{at}{variant}"
