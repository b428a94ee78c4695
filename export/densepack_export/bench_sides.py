"""The contestants of `densepack bench`: what `SIDE` on the command line means.

    SIDE = SOURCE[@VARIANT]      SOURCE: a bundle, a checkpoint folder or hub id, or `seed`
                                 VARIANT: packed (default) or dense, each with a backend behind it, as in dense-fp16

`seed` is the shape of the published model with random weights. `dense` is the same model with nothing removed and
random weights: the time of a matrix product does not depend on its values.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from densepack_export.engine import EngineSettings, build_engine, choose_flavour
from densepack_export.onnx_export import export_onnx
from densepack_models.checkpoint import load_checkpoint
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.replica import SEED
from densepack_models.structure import Structure
from densepack_models.torch_session import TorchSession
from densepack_runtime.backends import Choice, open_choice, open_plan
from densepack_runtime.benchmark import Cost, Side
from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.engines import Host, Profile, choose_plan, require_engine
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.gpus import nvidia_gpus
from densepack_runtime.onnxruntime_gpu import OnnxRuntimeGpuSession
from densepack_runtime.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.openvino_session import OpenVinoSession
from densepack_runtime.session import GRAPH_OF, ComputePrecision, Session
from densepack_runtime.tensorrt_session import TensorRTSession

SHAPES = ("packed", "dense")
# The largest batch and length of the plan that is built for a side that has none.
_PLAN_SHAPE = (128, 384)


@dataclass(frozen=True, slots=True)
class Kind:
    """What runs a side: the backend's name in the document, its precision, and whether it takes a GPU."""

    backend: str
    precision: ComputePrecision
    gpu: bool = False


KINDS = {
    "": Kind("onnxruntime", "fp32"),
    "fp16": Kind("onnxruntime", "fp16"),
    "openvino": Kind("openvino", "fp32"),
    "openvino-bf16": Kind("openvino", "bf16"),
    "openvino-int8": Kind("openvino", "int8"),
    "torch": Kind("pytorch", "fp32"),
    "torch-cuda": Kind("pytorch-cuda", "fp16", gpu=True),
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


def open_side(text: str, opened: ExitStack, threads: int | None) -> Side:
    """Open one contestant; it is closed with `opened`. Raises InputError or the error of what it is made from."""
    name = SideName.parse(text)
    kind = name.kind
    folder = Path(name.source)
    bundle = Bundle.open(folder) if (folder / MANIFEST_NAME).is_file() else None
    session: Session
    if bundle is not None and not name.dense and not kind.backend.startswith("pytorch"):
        session = _of_bundle(bundle, kind, threads)
        model = bundle.manifest.model
        cost = Cost(model.flops_per_token, model.flops_per_token_pair)
    else:
        module = _module(name.source, bundle, dense=name.dense)
        session = _of_module(module, kind, opened, threads)
        cost = Cost(module.structure.flops_per_token, module.structure.flops_per_token_pair)
    opened.enter_context(closing(session))
    return Side(str(name), session, cost, kind.backend, kind.precision)


def _of_bundle(bundle: Bundle, kind: Kind, threads: int | None) -> Session:
    if kind.backend == "tensorrt":
        return open_plan(bundle, require_engine(choose_plan(bundle, Host.here(), kind.precision)))
    return open_choice(bundle, Choice(kind.backend, kind.precision, "asked for"), threads=threads)


def _of_module(module: PackedBertForQuestionAnswering, kind: Kind, opened: ExitStack, threads: int | None) -> Session:
    """A session for a module that is in no bundle: exported, and for TensorRT built, into a temporary folder."""
    if kind.backend == "pytorch":
        return TorchSession(module, threads=threads)
    if kind.backend == "pytorch-cuda":
        return TorchSession(module.typed_fp16(), device="cuda")
    folder = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-bench-")))
    graph = folder / "model.onnx"
    export_onnx(module, graph, precision=GRAPH_OF[kind.precision])
    openers: dict[str, Callable[[], Session]] = {
        "onnxruntime": lambda: OnnxRuntimeSession(graph, threads=threads),
        "openvino": lambda: OpenVinoSession(graph, precision=kind.precision, threads=threads),
        "onnxruntime-cuda": lambda: OnnxRuntimeGpuSession(graph, provider="cuda"),
        "tensorrt": lambda: _built(graph, folder / "model.plan"),
    }
    return openers[kind.backend]()


def _built(graph: Path, plan: Path) -> Session:
    batch, length = _PLAN_SHAPE
    profiles = [Profile((1, 1), (batch, 128), (batch, 128)), Profile((1, 129), (batch, length), (batch, length))]
    return TensorRTSession.open(plan, build_engine(graph, plan, EngineSettings(choose_flavour()), profiles).entry)


def _module(source: str, bundle: Bundle | None, *, dense: bool) -> PackedBertForQuestionAnswering:
    torch.manual_seed(0)
    if source == "seed":
        return PackedBertForQuestionAnswering(SEED.dense() if dense else SEED)
    if bundle is not None:
        structure = Structure.from_dict(bundle.manifest.model.structure)
        return PackedBertForQuestionAnswering(structure.dense() if dense else structure)
    packed = pack(load_checkpoint(source))
    return PackedBertForQuestionAnswering(packed.structure.dense()) if dense else packed
