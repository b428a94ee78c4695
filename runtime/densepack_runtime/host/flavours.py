"""The flavours of TensorRT that densepack builds for: their modules, extras and installed versions."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
_DISTRIBUTIONS: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
    "tensorrt-rtx": ("tensorrt-rtx",),
}


def installed_version(flavour: Flavour) -> str:
    """Version of a flavour's package without importing it; "" when it is not installed."""
    name = MODULES[flavour]
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return ""
    for distribution in _DISTRIBUTIONS[flavour]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return str(getattr(importlib.import_module(name), "__version__", ""))
