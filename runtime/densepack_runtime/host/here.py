"""What this host has that decides what can run on it: asked once and handed down.

host = Host.here()
host.gpu, host.tensorrt, host.has_provider("CUDAExecutionProvider")
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache

from densepack_runtime.host.flavours import FLAVOURS, Flavour, installed_version
from densepack_runtime.host.gpus import Gpu, nvidia_gpus


@dataclass(frozen=True, slots=True)
class Host:
    """The first GPU, the TensorRT versions that are installed, by flavour, and all GPUs.

    `providers` are those of the installed onnxruntime; None: it is asked (and imported) when they are wanted.
    """

    gpu: Gpu | None
    tensorrt: dict[Flavour, str]
    gpus: tuple[Gpu, ...] = ()
    providers: tuple[str, ...] | None = None

    @classmethod
    def here(cls) -> Host:
        """This host, asked the first time."""
        return _asked()

    @property
    def onnxruntime_providers(self) -> tuple[str, ...]:
        return _providers() if self.providers is None else self.providers

    def has_provider(self, provider: str) -> bool:
        """Whether the installed onnxruntime has a provider, "CUDAExecutionProvider" for one."""
        return provider in self.onnxruntime_providers


@cache
def _asked() -> Host:
    gpus = tuple(nvidia_gpus())
    versions = {flavour: installed_version(flavour) for flavour in FLAVOURS}
    return Host(gpus[0] if gpus else None, {name: found for name, found in versions.items() if found}, gpus)


def _providers() -> tuple[str, ...]:
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
