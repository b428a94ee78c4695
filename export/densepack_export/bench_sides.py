"""The contestants of `densepack bench`: what `SIDE` on the command line means.

    SIDE = SOURCE[@VARIANT]      SOURCE: a bundle, a checkpoint folder or hub id, or `seed`
                                 VARIANT: packed (default), dense, each with -fp16 or -torch behind it

`seed` is the shape of the published model with random weights. `dense` is the same model with nothing removed and
random weights: the time of a matrix product does not depend on its values.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from densepack_export.onnx_export import export_onnx
from densepack_models.checkpoint import load_checkpoint
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.replica import SEED
from densepack_models.structure import Structure
from densepack_models.torch_session import TorchSession
from densepack_runtime.benchmark import Cost, Side
from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.session import Precision, Session

VARIANTS = ("packed", "dense", "packed-fp16", "dense-fp16", "packed-torch", "dense-torch")


@dataclass(frozen=True, slots=True)
class SideName:
    """A parsed SIDE."""

    source: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> SideName:
        """Raises InputError for an unknown variant."""
        source, _, variant = text.partition("@")
        variant = variant or "packed"
        if variant not in VARIANTS:
            raise InputError(f"unknown variant {variant!r} in {text!r}; known: {', '.join(VARIANTS)}")
        return cls(source, variant)

    def __str__(self) -> str:
        return f"{Path(self.source).name}@{self.variant}"


def open_side(text: str, opened: ExitStack, threads: int | None) -> Side:
    """Open one contestant; it is closed with `opened`. Raises InputError or the error of what it is made from."""
    name = SideName.parse(text)
    shape, _, kind = name.variant.partition("-")
    precision: Precision = "fp16" if kind == "fp16" else "fp32"
    bundle = Path(name.source) if (Path(name.source) / MANIFEST_NAME).is_file() else None
    if bundle is not None and name.variant in ("packed", "packed-fp16"):
        return _bundle_side(name, Bundle.open(bundle), precision, opened, threads)
    module = _module(name.source, bundle, dense=shape == "dense")
    session: Session
    if kind == "torch":
        session = TorchSession(module, threads=threads)
    else:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-bench-")))
        export_onnx(module, folder / "model.onnx", precision=precision)
        session = OnnxRuntimeSession(folder / "model.onnx", threads=threads)
    opened.enter_context(closing(session))
    structure = module.structure
    cost = Cost(structure.flops_per_token, structure.flops_per_token_pair)
    return Side(str(name), session, cost, "pytorch" if kind == "torch" else "onnxruntime", precision)


def _bundle_side(name: SideName, bundle: Bundle, precision: Precision, opened: ExitStack, threads: int | None) -> Side:
    session = opened.enter_context(closing(OnnxRuntimeSession(bundle.graph(precision), threads=threads)))
    model = bundle.manifest.model
    return Side(str(name), session, Cost(model.flops_per_token, model.flops_per_token_pair), "onnxruntime", precision)


def _module(source: str, bundle: Path | None, *, dense: bool) -> PackedBertForQuestionAnswering:
    torch.manual_seed(0)
    if source == "seed":
        return PackedBertForQuestionAnswering(SEED.dense() if dense else SEED)
    if bundle is not None:
        structure = Structure.from_dict(Bundle.open(bundle).manifest.model.structure)
        return PackedBertForQuestionAnswering(structure.dense() if dense else structure)
    packed = pack(load_checkpoint(source))
    return PackedBertForQuestionAnswering(packed.structure.dense()) if dense else packed
