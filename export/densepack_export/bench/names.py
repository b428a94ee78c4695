"""What SIDE on the command line of `densepack bench` means: a source, packed or dense, and what runs it.

Every registered backend is there in each of its precisions, its default by its name alone; PyTorch, which runs no
bundle, comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.backends import BACKENDS
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.batching import GPU_TOKEN_BUDGET, Batching
from densepack_runtime.sessions.session import ComputePrecision

SHAPES = ("packed", "dense")


@dataclass(frozen=True, slots=True)
class Kind:
    """What runs a side: the backend's name in the document, its precision, and whether it takes a GPU."""

    backend: str
    precision: ComputePrecision
    gpu: bool = False

    @property
    def is_torch(self) -> bool:
        return self.backend.startswith("pytorch")

    @property
    def batching(self) -> Batching:
        """How windows become batches where questions are answered, as `QuestionAnswerer.open` has it."""
        if self.is_torch:
            return Batching(GPU_TOKEN_BUDGET) if self.gpu else Batching()
        return BACKENDS[self.backend].batching(self.precision)


_TORCH = {
    "torch": Kind("pytorch", "fp32"),
    "torch-bf16": Kind("pytorch", "bf16"),
    "torch-compile": Kind("pytorch-compiled", "fp32"),
    "torch-compile-bf16": Kind("pytorch-compiled", "bf16"),
    "torch-cuda": Kind("pytorch-cuda", "fp16", gpu=True),
    "torch-cuda-compile": Kind("pytorch-cuda-compiled", "fp16", gpu=True),
}
_SHORT = {"": "onnxruntime", "fp16": "onnxruntime-fp16", "cuda": "onnxruntime-cuda"}


def kinds() -> dict[str, Kind]:
    """What can stand behind packed or dense, by its spelling."""
    found: dict[str, Kind] = {}
    for backend in BACKENDS.values():
        for precision in backend.precisions:
            kind = Kind(backend.name, precision, backend.on_gpu)
            found.setdefault(backend.name, kind)
            found[f"{backend.name}-{precision}"] = kind
    return {**{short: found[name] for short, name in _SHORT.items()}, **found, **_TORCH}


def variants() -> tuple[str, ...]:
    """Everything that SIDE takes behind the @."""
    return tuple(f"{shape}-{kind}".rstrip("-") for kind in kinds() for shape in SHAPES)


@dataclass(frozen=True, slots=True)
class SideName:
    """A parsed SIDE: where it comes from, packed or dense, and what runs it."""

    source: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> SideName:
        """Raises InputError for an unknown variant, BackendError for one that takes a GPU where none is.

        The variant is behind the last @, unless the whole is a path that is there.
        """
        source, _, variant = text.rpartition("@")
        name = cls(source, variant) if source and not Path(text).exists() else cls(text, SHAPES[0])
        if name.variant not in variants():
            raise InputError(f"unknown variant {name.variant!r} in {text!r}; known: {', '.join(variants())}")
        if name.kind.gpu and Host.here().gpu is None:
            raise BackendError(f"{text} needs an NVIDIA GPU, and there is none here")
        return name

    @property
    def kind(self) -> Kind:
        return kinds()[self.variant.partition("-")[2]]

    @property
    def dense(self) -> bool:
        return self.variant.startswith("dense")

    def __str__(self) -> str:
        return f"{Path(self.source).name}@{self.variant}"
