"""How the sides of a benchmark are opened, in this process or in another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densepack_export.bench.names import Kind
from densepack_runtime.backends import BACKENDS, Choice, Runnable, choose_backend, open_choice
from densepack_runtime.benchmark.sides import Texts
from densepack_runtime.bundle import Bundle
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Session
from densepack_runtime.tensorrt_plans.record import PlanEntry


@dataclass(frozen=True, slots=True)
class BundleOpener:
    """Opens what a bundle holds."""

    folder: Path
    kind: Kind

    def __call__(self, options: SessionOptions) -> Session:
        bundle, kind = Bundle.open(self.folder), self.kind
        choice = Choice(kind.backend, kind.precision, "asked for")
        if BACKENDS[kind.backend].runs_plans:
            choice = choose_backend(bundle, kind.backend, kind.precision)
        return open_choice(bundle, choice, options)


@dataclass(frozen=True, slots=True)
class FileOpener:
    """Opens an ONNX file, or a plan with its record."""

    file: Path
    kind: Kind
    plan: PlanEntry | None = None

    def __call__(self, options: SessionOptions) -> Session:
        model = Runnable(self.file, self.kind.precision, self.plan)
        return BACKENDS[self.kind.backend].open(model, options)


def texts_of_bundle(bundle: Bundle) -> Texts:
    """How texts become windows for a bundle."""
    return Texts(bundle.tokenizer_json, bundle.manifest.max_length, bundle.manifest.doc_stride)
