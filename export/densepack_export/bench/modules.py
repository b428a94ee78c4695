"""Contestants of `densepack bench` that are made from a PyTorch module: run as it is, exported, or built into a plan.

`sides` says what a SIDE is and imports this when one of them needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from densepack_export.bench.names import Kind, SideName
from densepack_export.bench.openers import FileOpener, texts_of_bundle
from densepack_export.graphs.int8_error import WINDOWS, measure_int8_ranges
from densepack_export.graphs.onnx_export import export_onnx, random_batch
from densepack_export.plans.builder import PlanSettings, build_plan, choose_flavour
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import SEED
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.torch_session import TorchSession
from densepack_runtime.backends import BACKENDS
from densepack_runtime.benchmark.sides import OpenSession, Side, Texts
from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.parity.climb import ParityRun
from densepack_runtime.parity.recorded_reference import stratified_windows
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path
from densepack_runtime.question_answering.windows import MAX_LENGTH
from densepack_runtime.sessions.int8_ranges import INT8_RANGES_NAME
from densepack_runtime.sessions.openvino_tiles import has_tiles
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import GRAPH_OF, Batch, Session
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.structure import Structure

SEED_SOURCE = "seed"
# The largest batch and length of the plan that is built for a side that has none.
_PLAN_SHAPE = (128, 384)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A source in PyTorch: its module, how it reads texts (None: no tokenizer), and whether its weights are random."""

    module: PackedBertForQuestionAnswering
    texts: Texts | None
    random_weights: bool


@dataclass(frozen=True, slots=True)
class ModuleOpener:
    """Loads the module and runs it in PyTorch, in this process or in another one."""

    name: SideName

    def __call__(self, options: SessionOptions) -> Session:
        folder = Path(self.name.source)
        bundle = Bundle.open(folder) if (folder / MANIFEST_NAME).is_file() else None
        return _torch_session(_load(self.name, bundle).module, self.name.kind, options)


def side_of_module(name: SideName, bundle: Bundle | None, opened: ExitStack, options: SessionOptions) -> Side:
    """Load, and export or build into a temporary folder that goes with `opened`; the caller closes the session."""
    kind, loaded = name.kind, _load(name, bundle)
    opener: OpenSession
    if kind.is_torch:
        opener, session = ModuleOpener(name), _torch_session(loaded.module, kind, options)
    else:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-bench-")))
        opener = exported(loaded.module, kind, folder, loaded.texts)
        session = opener(options)
    return Side(
        name=str(name),
        session=session,
        cost=loaded.module.structure.cost,
        backend=kind.backend,
        precision=kind.precision,
        on_gpu=kind.gpu,
        batching=kind.batching,
        random_weights=loaded.random_weights,
        texts=loaded.texts,
        open_again=opener,
    )


def _load(name: SideName, bundle: Bundle | None) -> _Loaded:
    torch.manual_seed(0)
    if name.source == SEED_SOURCE:
        return _Loaded(_random(SEED, dense=name.dense), None, random_weights=True)
    if bundle is not None:
        module = _random(bundle.manifest.model.structure, dense=name.dense)
        return _Loaded(module, texts_of_bundle(bundle), random_weights=True)
    checkpoint = load_checkpoint(name.source)
    module = pack(checkpoint)
    texts = Texts(checkpoint.tokenizer_json, min(MAX_LENGTH, module.structure.longest_input))
    return _Loaded(_random(module.structure, dense=True) if name.dense else module, texts, random_weights=name.dense)


def _random(structure: Structure, *, dense: bool) -> PackedBertForQuestionAnswering:
    return PackedBertForQuestionAnswering(structure.dense() if dense else structure)


def _torch_session(module: PackedBertForQuestionAnswering, kind: Kind, options: SessionOptions) -> Session:
    """In 16 bits, the products and the embeddings are cast once; norms and softmax stay in float32."""
    if kind.precision == "bf16":
        module = module.typed_bf16()
    if kind.precision == "fp16":
        module = module.typed_fp16()
    device = "cuda" if kind.gpu else "cpu"
    return TorchSession(module, device=device, options=options, compiled=kind.backend.endswith("compiled"))


def exported(
    module: PackedBertForQuestionAnswering, kind: Kind, folder: Path, texts: Texts | None = None
) -> OpenSession:
    """The module as a graph, or as a plan, in a folder, and what opens it."""
    graph = folder / "model.onnx"
    export_onnx(module, graph, precision=GRAPH_OF[kind.precision])
    if kind.precision == "int8" and has_tiles():
        measure_int8_ranges(module, _batches(module.structure, texts)).save(folder / INT8_RANGES_NAME)
    if not BACKENDS[kind.backend].runs_plans:
        return FileOpener(graph, kind)
    batch, length = _PLAN_SHAPE
    profiles = [Profile((1, 1), (batch, 128), (batch, 128)), Profile((1, 129), (batch, length), (batch, length))]
    plan = folder / "model.plan"
    settings = PlanSettings(choose_flavour(), GRAPH_OF[kind.precision])
    return FileOpener(plan, kind, build_plan(graph, plan, settings, profiles).entry)


def _batches(structure: Structure, texts: Texts | None) -> Iterable[Batch]:
    """What INT8 is measured on: the embedded questions, or any tokens where there is no tokenizer."""
    if texts is None:
        return [random_batch(structure, 4, min(MAX_LENGTH, structure.longest_input))]
    run = ParityRun.of(texts.windower(), read_squad(sample_squad_path()), "sample")
    return run.batches(stratified_windows(run.windows, WINDOWS))
