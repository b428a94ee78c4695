"""Which backend runs a bundle here, and why.

    choice = choose_backend(bundle)                # Choice(backend="onnxruntime", precision="fp32", reason="…")
    with closing(open_choice(bundle, choice)) as session: ...

`auto` is a documented order (a TensorRT plan that fits, ONNX Runtime on the GPU, OpenVINO, ONNX Runtime on the CPU) and
never a fallback after a failure: a backend that is chosen and then fails is an error.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.batching import Batching, batching_of
from densepack_runtime.sessions.session import GRAPH_OF, ComputePrecision, Session
from densepack_runtime.tensorrt_plans.choice import choose_plan, require_plan
from densepack_runtime.tensorrt_plans.record import PlanEntry

# What each backend computes in; the first is its default.
PRECISIONS: dict[str, tuple[ComputePrecision, ...]] = {
    "tensorrt": ("fp16", "fp32"),
    "onnxruntime-tensorrt": ("fp16", "fp32"),
    "onnxruntime-cuda": ("fp16", "fp32"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "fp16"),
}
BACKENDS = ("auto", *PRECISIONS)
ON_CPU = ("openvino", "onnxruntime")
_PROVIDERS = {"onnxruntime": "cpu", "onnxruntime-cuda": "cuda", "onnxruntime-tensorrt": "tensorrt"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What would be opened: backend, precision, the reason in words, and the plan where there is one."""

    backend: str
    precision: ComputePrecision
    reason: str
    plan: PlanEntry | None = None

    @property
    def on_gpu(self) -> bool:
        return self.backend not in ON_CPU

    @property
    def batching(self) -> Batching:
        return batching_of(self.backend, self.precision, on_gpu=self.on_gpu)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}: {self.reason}"


def choose_backend(
    bundle: Bundle, backend: str = "auto", precision: ComputePrecision | None = None, host: Host | None = None
) -> Choice:
    """Decide on backend and precision. Raises BackendError for what is unknown, not in the bundle, or does not fit."""
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    host = host or Host.here()
    if backend == "auto":
        return _best(bundle, precision, host)
    if backend == "tensorrt":
        _refuse_precision(backend, precision)
        chosen = choose_plan(bundle.manifest.engines, host, precision, folder=bundle.folder)
        plan = require_plan(chosen)
        return Choice(backend, plan.precision, chosen.reason, plan)
    return _graph_choice(bundle, backend, precision, "asked for")


def open_choice(bundle: Bundle, choice: Choice, *, threads: int | None = None, cuda_graphs: bool = True) -> Session:
    """Open what was chosen. `threads` counts CPU threads, default the physical cores.

    Raises BackendError for what the build closed, and what the backend raises.
    """
    _refuse_closed(bundle, choice.backend, choice.precision)
    if choice.plan is not None:
        return open_plan(bundle, choice.plan, cuda_graphs=cuda_graphs)
    from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    graph = bundle.graph(GRAPH_OF[choice.precision])
    if choice.backend == "openvino":
        from densepack_runtime.sessions.openvino_session import OpenVinoSession

        return OpenVinoSession(graph, precision=choice.precision, threads=threads, cache=beside(bundle, "openvino"))
    if choice.backend == "onnxruntime":
        return OnnxRuntimeSession(graph, threads=threads)
    from densepack_runtime.sessions.onnxruntime_gpu import OnnxRuntimeGpuSession

    return OnnxRuntimeGpuSession(
        graph,
        provider=_PROVIDERS[choice.backend],
        max_length=bundle.manifest.max_length,
        cuda_graphs=cuda_graphs,
        engine_cache=beside(bundle, "onnxruntime-tensorrt"),
    )


def open_plan(bundle: Bundle, plan: PlanEntry, *, cuda_graphs: bool = True) -> Session:
    """Open one plan of the bundle. Raises BackendError when it does not fit this host."""
    from densepack_runtime.tensorrt_plans.session import TensorRTSession

    return TensorRTSession.open(
        bundle.path(plan.plan),
        plan,
        bundle=bundle.folder,
        cuda_graphs=cuda_graphs,
        runtime_cache=beside(bundle, f"{plan.plan_sha256[:16]}.kernels"),
    )


def beside(bundle: Bundle, name: str) -> Path:
    """Where a backend may keep what it compiled for this host: beside the bundle, which itself never changes."""
    folder = bundle.folder.resolve()
    return folder.with_name(f"{folder.name}.cache") / name


def has_provider(provider: str) -> bool:
    """Whether the installed onnxruntime has a provider, "CUDAExecutionProvider" for one."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return provider in onnxruntime.get_available_providers()


def _best(bundle: Bundle, precision: ComputePrecision | None, host: Host) -> Choice:
    if host.gpu is None:
        return _on_cpu(bundle, precision, "no NVIDIA GPU here")
    if precision in ("bf16", "int8"):
        return _on_cpu(bundle, precision, f"{host.gpu} is here, but {precision} was asked for, which is OpenVINO's")
    chosen = choose_plan(bundle.manifest.engines, host, precision, folder=bundle.folder)
    if chosen.entry is not None:
        return Choice("tensorrt", chosen.entry.precision, chosen.reason, chosen.entry)
    if has_provider("CUDAExecutionProvider"):
        return _graph_choice(
            bundle, "onnxruntime-cuda", precision, f"{host.gpu} is here; no plan fits: {chosen.reason}"
        )
    reason = (
        f"{host.gpu} is here, but no plan fits ({chosen.reason}) and onnxruntime has no CUDA provider (pip install "
        "'densepack[gpu]')"
    )
    return _on_cpu(bundle, precision, reason)


def _on_cpu(bundle: Bundle, precision: ComputePrecision | None, reason: str) -> Choice:
    """OpenVINO where it is installed and computes what is asked for, else ONNX Runtime."""
    if importlib.util.find_spec("openvino") is None:
        return _graph_choice(bundle, "onnxruntime", precision, reason)
    if precision not in (None, *PRECISIONS["openvino"]):
        return _graph_choice(bundle, "onnxruntime", precision, f"{reason}; OpenVINO does not compute in {precision}")
    return _graph_choice(bundle, "openvino", precision, reason)


def _graph_choice(bundle: Bundle, backend: str, precision: ComputePrecision | None, reason: str) -> Choice:
    _refuse_precision(backend, precision)
    precision = precision or PRECISIONS[backend][0]
    if GRAPH_OF[precision] not in bundle.precisions:
        raise BackendError(
            f"the bundle has no {GRAPH_OF[precision]} graph, only {', '.join(bundle.precisions)}: choose one of these, "
            "or build the bundle again"
        )
    _refuse_closed(bundle, backend, precision)
    return Choice(backend, precision, reason)


def _refuse_closed(bundle: Bundle, backend: str, precision: ComputePrecision) -> None:
    reason = bundle.manifest.why_closed(backend, precision)
    if reason is not None:
        raise BackendError(
            f"this bundle does not run in {precision} on {backend}: when it was built, {reason}. Choose another "
            f"precision ({', '.join(PRECISIONS[backend])}), or build it again on another processor"
        )


def _refuse_precision(backend: str, precision: ComputePrecision | None) -> None:
    if precision is not None and precision not in PRECISIONS[backend]:
        able = [name for name, precisions in PRECISIONS.items() if precision in precisions]
        raise BackendError(
            f"{backend} computes in {' or '.join(PRECISIONS[backend])}, not in {precision}: choose one of these, or "
            f"--backend {' or '.join(able)}"
        )
