"""How the sides of a benchmark are opened, in this process or in another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densepack_export.bench.names import Kind
from densepack_runtime.backends import Choice, open_choice, open_plan
from densepack_runtime.benchmark.sides import Texts
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.onnxruntime_gpu import OnnxRuntimeGpuSession
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.openvino_session import OpenVinoSession
from densepack_runtime.sessions.session import Session
from densepack_runtime.tensorrt_plans.choice import choose_plan, require_plan
from densepack_runtime.tensorrt_plans.record import PlanEntry
from densepack_runtime.tensorrt_plans.session import TensorRTSession


@dataclass(frozen=True, slots=True)
class BundleOpener:
    """Opens what a bundle holds, in this process or in another one."""

    folder: Path
    kind: Kind

    def __call__(self, threads: int | None) -> Session:
        bundle = Bundle.open(self.folder)
        if self.kind.backend == "tensorrt":
            return open_plan(
                bundle,
                require_plan(
                    choose_plan(bundle.manifest.engines, Host.here(), self.kind.precision, folder=bundle.folder)
                ),
            )
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
    entry: PlanEntry

    def __call__(self, threads: int | None) -> Session:
        del threads  # a GPU has no use for them
        return TensorRTSession.open(self.plan, self.entry)


def texts_of_bundle(bundle: Bundle) -> Texts:
    """How texts become windows for a bundle."""
    return Texts(bundle.tokenizer_json, bundle.manifest.max_length, bundle.manifest.doc_stride)
