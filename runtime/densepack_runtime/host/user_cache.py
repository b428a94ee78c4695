"""Where this user's cache is: what was compiled for this host, what came from elsewhere. All of it can be had again."""

from __future__ import annotations

import os
from pathlib import Path

from densepack_runtime.errors import InputError

CACHE_VARIABLE = "DENSEPACK_CACHE"


def named_cache() -> Path | None:
    """The folder that DENSEPACK_CACHE names."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else None


def user_cache() -> Path:
    """The same, or else `densepack` in the user's own cache folder. Raises InputError for a user without a home."""
    if (named := named_cache()) is not None:
        return named
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densepack"
    except RuntimeError as error:
        raise InputError(f"this user has no home folder for a cache: name one with {CACHE_VARIABLE}") from error
