"""What this host has that decides what can run on it, asked once and handed down.

host = Host.here()
host.gpu, host.tensorrt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from densepack_runtime.host.flavours import FLAVOURS, Flavour, installed_version
from densepack_runtime.host.gpus import Gpu, nvidia_gpus

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Host:
    """What decides whether a plan runs: the first GPU, and the TensorRT versions that are installed, by flavour."""

    gpu: Gpu | None
    tensorrt: dict[Flavour, str]

    @classmethod
    def here(cls) -> Host:
        gpus = nvidia_gpus()
        versions = {flavour: installed_version(flavour) for flavour in FLAVOURS}
        return cls(gpus[0] if gpus else None, {name: found for name, found in versions.items() if found})
