"""The contestants of `densepack bench`: what `SIDE` on the command line means.

    SIDE = SOURCE[@VARIANT]      SOURCE: a bundle, a checkpoint folder or hub id, or `seed`
                                 VARIANT: packed (default) or dense, each with what runs it behind it: dense-torch-bf16

`seed` is the shape of the published model with random weights. `dense` is the same model with nothing removed and
random weights: the time of a matrix product does not depend on its values. A bundle has no PyTorch module, so that
PyTorch runs its shape with random weights, too.

What opens a side can be sent to another process, which then imports this module and not PyTorch unless the side needs
it: the memory that is measured there is that of the side.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.backends import Choice, open_choice, open_plan
from densepack_runtime.benchmark import Cost, Side, Texts
from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.engines import EngineEntry, Host, choose_plan, require_engine
from densepack_runtime.errors import BackendError, InputError, require
from densepack_runtime.gpus import nvidia_gpus
from densepack_runtime.onnxruntime_gpu import OnnxRuntimeGpuSession
from densepack_runtime.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.openvino_session import OpenVinoSession
from densepack_runtime.session import ComputePrecision, Session
from densepack_runtime.tensorrt_session import TensorRTSession

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


@dataclass(frozen=True, slots=True)
class BundleOpener:
    """Opens what a bundle holds, in this process or in another one."""

    folder: Path
    kind: Kind

    def __call__(self, threads: int | None) -> Session:
        bundle = Bundle.open(self.folder)
        if self.kind.backend == "tensorrt":
            return open_plan(bundle, require_engine(choose_plan(bundle, Host.here(), self.kind.precision)))
        return open_choice(bundle, Choice(self.kind.backend, self.kind.precision, "asked for"), threads=threads)


@dataclass(frozen=True, slots=True)
class GraphOpener:
    """Opens an ONNX file, in this process or in another one."""

    graph: Path
    kind: Kind

    def __call__(self, threads: int | None) -> Session:
        if self.kind.backend == "openvino":
            return OpenVinoSession(self.graph, precision=self.kind.precision, threads=threads)
        if self.kind.backend == "onnxruntime-cuda":
            return OnnxRuntimeGpuSession(self.graph, provider="cuda")
        return OnnxRuntimeSession(self.graph, threads=threads)


@dataclass(frozen=True, slots=True)
class PlanOpener:
    """Opens a TensorRT plan, in this process or in another one."""

    plan: Path
    entry: EngineEntry

    def __call__(self, threads: int | None) -> Session:
        del threads  # a GPU has no use for them
        return TensorRTSession.open(self.plan, self.entry)


def open_side(text: str, opened: ExitStack, threads: int | None) -> Side:
    """Open one contestant; it is closed with `opened`. Raises InputError or the error of what it is made from."""
    name = SideName.parse(text)
    folder = Path(name.source)
    bundle = Bundle.open(folder) if (folder / MANIFEST_NAME).is_file() else None
    if bundle is not None and not name.dense and not name.kind.is_torch:
        side = _of_bundle(name, bundle, threads)
    else:
        for package in ("torch", "transformers", "onnx"):
            require(package, "export")
        from densepack_export.bench_modules import side_of_module

        side = side_of_module(name, bundle, opened, threads)
    opened.enter_context(closing(side.session))
    return side


def texts_of_bundle(bundle: Bundle) -> Texts:
    """How texts become windows for a bundle."""
    return Texts(bundle.tokenizer_json, bundle.manifest.max_length, bundle.manifest.doc_stride)


def _of_bundle(name: SideName, bundle: Bundle, threads: int | None) -> Side:
    kind, model = name.kind, bundle.manifest.model
    opener = BundleOpener(bundle.folder, kind)
    return Side(
        name=str(name),
        session=opener(threads),
        cost=Cost(model.flops_per_token, model.flops_per_token_pair),
        backend=kind.backend,
        precision=kind.precision,
        on_gpu=kind.gpu,
        texts=texts_of_bundle(bundle),
        open_again=opener,
    )
