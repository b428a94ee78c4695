"""Where a recording was made: versions and hardware, for the JSON that a peer leaves."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def provenance(*packages: str) -> dict[str, dict[str, str | int]]:
    """{"versions": of Python and the packages, "hardware": processor and cores}."""
    versions: dict[str, str | int] = {"python": platform.python_version()}
    versions |= {package: version(package) for package in packages}
    hardware: dict[str, str | int] = {"processor": _processor(), "cores": os.cpu_count() or 0, "device": "cpu"}
    return {"versions": versions, "hardware": hardware}


def _processor() -> str:
    listing = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
