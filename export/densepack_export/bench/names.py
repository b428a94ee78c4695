"""What SIDE on the command line of `densepack bench` means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.gpus import nvidia_gpus
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


# A further kind of a known backend is a line here; a new backend also needs one in an opener below.
KINDS = {
    "": Kind("onnxruntime", "fp32"),
    "onnxruntime": Kind("onnxruntime", "fp32"),
    "fp16": Kind("onnxruntime", "fp16"),
    "openvino": Kind("openvino", "fp32"),
    "openvino-bf16": Kind("openvino", "bf16"),
    "openvino-int8": Kind("openvino", "int8"),
    "torch": Kind("pytorch", "fp32"),
    "torch-bf16": Kind("pytorch", "bf16"),
    "torch-compile": Kind("pytorch-compiled", "fp32"),
    "torch-compile-bf16": Kind("pytorch-compiled", "bf16"),
    "torch-cuda": Kind("pytorch-cuda", "fp16", gpu=True),
    "torch-cuda-compile": Kind("pytorch-cuda-compiled", "fp16", gpu=True),
    "cuda": Kind("onnxruntime-cuda", "fp16", gpu=True),
    "tensorrt": Kind("tensorrt", "fp16", gpu=True),
}
VARIANTS = tuple(f"{shape}-{kind}".rstrip("-") for kind in KINDS for shape in SHAPES)


@dataclass(frozen=True, slots=True)
class SideName:
    """A parsed SIDE: where it comes from, packed or dense, and what runs it."""

    source: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> SideName:
        """Raises InputError for an unknown variant, BackendError for one that takes a GPU where none is."""
        source, _, variant = text.partition("@")
        variant = variant or "packed"
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r} in {text!r}; known: {', '.join(VARIANTS)}")
        name = cls(source, variant)
        if name.kind.gpu and not nvidia_gpus():
            raise BackendError(f"{text} needs an NVIDIA GPU, and there is none here")
        return name

    @property
    def kind(self) -> Kind:
        return KINDS[self.variant.partition("-")[2]]

    @property
    def dense(self) -> bool:
        return self.variant.startswith("dense")

    def __str__(self) -> str:
        return f"{Path(self.source).name}@{self.variant}"
