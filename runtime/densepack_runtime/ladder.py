"""The rungs that a bundle brings along, and the ladder on a host without PyTorch.

run = bundle_run(bundle, dataset, "dev-v1.1.json")
report = climb_from_recording(bundle, run)
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from densepack_runtime.bundle import REFERENCE_NAME, Bundle
from densepack_runtime.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.parity import ParityReport, ParityRun, Rung
from densepack_runtime.recorded_reference import RecordedReference
from densepack_runtime.squad import SquadDataset
from densepack_runtime.windows import Windower

PLAN_NOT_RUN = "built, not run"


def bundle_run(bundle: Bundle, dataset: SquadDataset, squad_name: str) -> ParityRun:
    """The questions of `dataset` in the windows that the bundle was built for."""
    manifest = bundle.manifest
    windower = Windower(bundle.tokenizer_json, max_length=manifest.max_length, doc_stride=manifest.doc_stride)
    return ParityRun.of(windower, dataset, squad_name)


def open_rungs(bundle: Bundle, opened: ExitStack, threads: int | None = None) -> list[Rung]:
    """Every graph of the bundle as a rung that runs here (closed with `opened`); plans as rungs that do not."""
    rungs = []
    for precision in bundle.precisions:
        session = OnnxRuntimeSession(bundle.graph(precision), threads=threads)
        opened.enter_context(closing(session))
        rungs.append(Rung(f"ONNX {precision.upper()}", session, precision))
    plans = (Path(engine["plan"]).stem for engine in bundle.manifest.engines)
    return [*rungs, *(Rung(f"plan {name}", None, "fp16", PLAN_NOT_RUN) for name in plans)]


def climb_from_recording(bundle: Bundle, run: ParityRun, threads: int | None = None) -> ParityReport:
    """Judge the bundle by PyTorch's recorded answers. Raises InputError when the dataset is not the recorded one."""
    recorded = RecordedReference.load(bundle.path(REFERENCE_NAME))
    with ExitStack() as opened:
        return recorded.compare(run, open_rungs(bundle, opened, threads))
