"""The one registry of backends; which of them runs a bundle here, and why.

    choice = choose_backend(bundle)                # Choice(backend="onnxruntime", precision="fp32", reason="…")
    with open_choice(bundle, choice) as session: ...

A backend is registered once. Choice, the rungs of the ladder, the sides of a benchmark, `doctor` and the help of the
command line are views of the registry:

    register(Backend("mine", ("fp32",), lambda model, options: MySession(model.file, options.threads)))

`auto` is a documented order (a TensorRT plan that fits, ONNX Runtime on the GPU, OpenVINO, ONNX Runtime on the CPU) and
never a fallback after a failure: a backend that is chosen and then fails is an error. The precision "fastest" is what
`densepack prove` has found on this host.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.here import Host
from densepack_runtime.host.user_cache import named_cache
from densepack_runtime.sessions.batching import CPU_LANES, FEW_LENGTHS, GPU_TOKEN_BUDGET, Batching
from densepack_runtime.sessions.host_record import HostRecord
from densepack_runtime.sessions.lanes import Lanes
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import GRAPH_OF, ComputePrecision, Session
from densepack_runtime.tensorrt_plans.choice import choose_plan, require_plan
from densepack_runtime.tensorrt_plans.record import PlanEntry

AUTO = "auto"
AskedPrecision = Literal[ComputePrecision, "fastest"]


@dataclass(frozen=True, slots=True)
class Runnable:
    """What a backend is asked to run: an ONNX file, or a plan with its record.

    `bundle` is named in messages; `sha256` is that of the file, where somebody has hashed it already.
    """

    file: Path
    precision: ComputePrecision
    plan: PlanEntry | None = None
    bundle: object = "BUNDLE"
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a model. `precisions` is what it computes in, its default first.

    `open` gets the options whole, with the folder where it may keep what it compiles. `here` tells what of `precisions`
    a host can run, () where nothing is installed (default: all of it); `rungs` what of that the ladder climbs (None:
    all of it). `label` is the name of a rung, with {} for the precision. Backends of plans do not run graphs.
    """

    name: str
    precisions: tuple[ComputePrecision, ...]
    open: Callable[[Runnable, SessionOptions], Session]
    on_gpu: bool = False
    batching: Callable[[ComputePrecision], Batching] = lambda _: Batching()
    here: Callable[[Host], tuple[ComputePrecision, ...]] | None = None
    rungs: tuple[ComputePrecision, ...] | None = None
    label: str = ""
    runs_plans: bool = False

    def precisions_on(self, host: Host) -> tuple[ComputePrecision, ...]:
        """What of it can run on this host."""
        return self.precisions if self.here is None else self.here(host)

    def rungs_on(self, host: Host) -> tuple[ComputePrecision, ...]:
        """What of that is worth a rung of the ladder."""
        wanted = self.precisions if self.rungs is None else self.rungs
        return tuple(precision for precision in self.precisions_on(host) if precision in wanted) if wanted else ()

    def rung_name(self, precision: ComputePrecision) -> str:
        return (self.label or f"{self.name} {{}}").format(precision.upper())


BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a backend known under its name. Raises InputError when the name is taken."""
    if backend.name in (AUTO, *BACKENDS):
        raise InputError(f"a backend named {backend.name!r} is registered already")
    BACKENDS[backend.name] = backend
    return backend


def backend_names() -> tuple[str, ...]:
    """What `--backend` takes."""
    return (AUTO, *reversed(BACKENDS))


def known_backend(name: str) -> Backend:
    """The registered backend. Raises BackendError for a name that nobody registered."""
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(backend_names())}")
    return BACKENDS[name]


# --- those of densepack ----------------------------------------------------------------------------------------------


def _open_onnxruntime(model: Runnable, options: SessionOptions) -> Session:
    from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(model.file, options)


def _open_onnxruntime_gpu(provider: str) -> Callable[[Runnable, SessionOptions], Session]:
    def open_session(model: Runnable, options: SessionOptions) -> Session:
        from densepack_runtime.sessions.onnxruntime_gpu import OnnxRuntimeGpuSession

        return OnnxRuntimeGpuSession(model.file, provider=provider, options=options, graph_sha256=model.sha256)

    return open_session


def _open_openvino(model: Runnable, options: SessionOptions) -> Session:
    from densepack_runtime.sessions.openvino_session import OpenVinoSession

    return OpenVinoSession(model.file, precision=model.precision, options=options, graph_sha256=model.sha256)


def _open_tensorrt(model: Runnable, options: SessionOptions) -> Session:
    from densepack_runtime.tensorrt_plans.session import TensorRTSession

    if model.plan is None:
        raise BackendError(f"TensorRT runs plans, and {model.file.name} is none: densepack build-engine {model.bundle}")
    return TensorRTSession.open(model.file, model.plan, options=options, bundle=model.bundle)


def _openvino_here(_: Host) -> tuple[ComputePrecision, ...]:
    from densepack_runtime.sessions.openvino_session import openvino_precisions

    return openvino_precisions()


def _with_provider(provider: str) -> Callable[[Host], tuple[ComputePrecision, ...]]:
    """The precisions of ONNX Runtime's GPU backends where there is a GPU and the installed onnxruntime can use it."""
    return lambda host: ("fp16", "fp32") if host.gpu is not None and host.has_provider(provider) else ()


def _on_gpu(_: ComputePrecision) -> Batching:
    return Batching(GPU_TOKEN_BUDGET)


def _on_openvino(precision: ComputePrecision) -> Batching:
    return Batching(length_multiple=1 if precision == "fp32" else FEW_LENGTHS, few_shapes=True, lanes=CPU_LANES)


# From the plainest to the fastest: the order of the rungs.
register(
    Backend(
        "onnxruntime",
        ("fp32", "fp16"),
        _open_onnxruntime,
        here=lambda _: ("fp32", "fp16") if importlib.util.find_spec("onnxruntime") else (),
        label="ONNX {}",
    )
)
register(
    Backend(
        "openvino",
        ("fp32", "bf16", "int8"),
        _open_openvino,
        batching=_on_openvino,
        here=_openvino_here,
        label="OpenVINO {}",
    )
)
register(
    Backend(
        "onnxruntime-cuda",
        ("fp16", "fp32"),
        _open_onnxruntime_gpu("cuda"),
        on_gpu=True,
        batching=_on_gpu,
        here=_with_provider("CUDAExecutionProvider"),
        rungs=("fp16",),
        label="ONNX {}, CUDA",
    )
)
register(
    Backend(
        "onnxruntime-tensorrt",
        ("fp16", "fp32"),
        _open_onnxruntime_gpu("tensorrt"),
        on_gpu=True,
        batching=_on_gpu,
        here=_with_provider("TensorrtExecutionProvider"),
        rungs=(),  # it builds an engine for minutes at its first run
    )
)
register(
    Backend(
        "tensorrt",
        ("fp16", "fp32"),
        _open_tensorrt,
        on_gpu=True,
        batching=_on_gpu,
        here=lambda host: ("fp16", "fp32") if host.gpu is not None and host.tensorrt else (),
        runs_plans=True,
    )
)


# --- which of them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """What would be opened: backend, precision, the reason in words, and the plan where there is one."""

    backend: str
    precision: ComputePrecision
    reason: str
    plan: PlanEntry | None = None

    @property
    def on_gpu(self) -> bool:
        return known_backend(self.backend).on_gpu

    @property
    def batching(self) -> Batching:
        """What it is fastest with."""
        return known_backend(self.backend).batching(self.precision)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}: {self.reason}"


def choose_backend(
    bundle: Bundle,
    backend: str = AUTO,
    precision: AskedPrecision | None = None,
    host: Host | None = None,
    *,
    cache: Path | None = None,
) -> Choice:
    """Decide on backend and precision. Raises BackendError for what is unknown, not in the bundle, or does not fit.

    "fastest" is the fastest of what this host has proven (its record is in `cache`, by default that of the bundle), and
    without such a record what is taken otherwise, with a reason that says how to come to one.
    """
    host = host or Host.here()
    if backend != AUTO:
        known_backend(backend)
    if precision == "fastest":
        return _fastest(bundle, backend, host, cache or cache_of(bundle))
    if backend == AUTO:
        return _best(bundle, precision, host)
    return _asked(bundle, known_backend(backend), precision, "asked for", host)


def _fastest(bundle: Bundle, backend: str, host: Host, cache: Path) -> Choice:
    record = HostRecord.load(cache, bundle.sha256, host)
    proof = record.fastest(lambda proof: backend in (AUTO, proof.backend)) if record else None
    if proof is None:
        choice = choose_backend(bundle, backend, None, host)
        advice = f"densepack prove {bundle.folder} finds out what is fastest on this host"
        return replace(choice, reason=f"{choice.reason}; {advice}")
    reason = f"the fastest of what is proven here ({proof.told_times})"
    return _asked(bundle, known_backend(proof.backend), proof.precision, reason, host)


def open_choice(bundle: Bundle, choice: Choice, options: SessionOptions = DEFAULT) -> Session:
    """Open what was chosen; what it compiles is kept in `cache_of` the bundle, unless the options name another cache.

    With several lanes, a session for each. Raises BackendError for what the build closed, and what the backend raises.
    """
    if options.lanes > 1:
        return Lanes.of(options.lanes, lambda: open_choice(bundle, choice, replace(options, lanes=1)))
    if choice.plan is not None:
        return open_plan(bundle, choice.plan, options)
    _refuse_closed(bundle, choice.backend, choice.precision)
    graph = bundle.graph(GRAPH_OF[choice.precision])
    known = bundle.manifest.files[graph.name].sha256
    return _open(bundle, choice.backend, Runnable(graph, choice.precision, bundle=bundle.folder, sha256=known), options)


def open_plan(bundle: Bundle, plan: PlanEntry, options: SessionOptions = DEFAULT) -> Session:
    """Open one plan of the bundle. Raises BackendError when it does not fit this host."""
    return _open(bundle, "tensorrt", Runnable(bundle.path(plan.plan), plan.precision, plan, bundle.folder), options)


def _open(bundle: Bundle, backend: str, model: Runnable, options: SessionOptions) -> Session:
    kept = replace(
        options,
        cache=options.cache or cache_of(bundle),
        max_length=bundle.manifest.max_length,
        inputs=tuple(tensor.name for tensor in bundle.manifest.inputs),
    )
    return known_backend(backend).open(model, kept)


def cache_of(bundle: Bundle) -> Path:
    """Where backends may keep what they compiled for this host: beside the bundle, which itself never changes.

    DENSEPACK_CACHE names another folder. Any number of bundles may share it: what is kept is named after its graph.
    """
    folder = bundle.folder.resolve()
    return named_cache() or folder.with_name(f"{folder.name}.cache")


def _best(bundle: Bundle, precision: ComputePrecision | None, host: Host) -> Choice:
    if host.gpu is None:
        return _on_cpu(bundle, precision, "no NVIDIA GPU here", host)
    if precision in ("bf16", "int8"):
        reason = f"{host.gpu} is here, but {precision} was asked for, which is OpenVINO's"
        return _on_cpu(bundle, precision, reason, host)
    chosen = choose_plan(bundle.manifest.engines, host, precision, folder=bundle.folder)
    if chosen.entry is not None:
        return Choice("tensorrt", chosen.entry.precision, chosen.reason, chosen.entry)
    if host.has_provider("CUDAExecutionProvider"):
        reason = f"{host.gpu} is here; no plan fits: {chosen.reason}"
        return _asked(bundle, BACKENDS["onnxruntime-cuda"], precision, reason, host)
    reason = (
        f"{host.gpu} is here, but no plan fits ({chosen.reason}) and onnxruntime has no CUDA provider (pip install "
        "'densepack[gpu]')"
    )
    return _on_cpu(bundle, precision, reason, host)


def _on_cpu(bundle: Bundle, precision: ComputePrecision | None, reason: str, host: Host) -> Choice:
    """OpenVINO where it is installed and computes what is asked for, else ONNX Runtime."""
    openvino, plain = BACKENDS["openvino"], BACKENDS["onnxruntime"]
    if importlib.util.find_spec("openvino") is None:
        return _asked(bundle, plain, precision, reason, host)
    if precision not in (None, *openvino.precisions):
        return _asked(bundle, plain, precision, f"{reason}; OpenVINO does not compute in {precision}", host)
    return _asked(bundle, openvino, precision, reason, host)


def _asked(bundle: Bundle, backend: Backend, precision: ComputePrecision | None, reason: str, host: Host) -> Choice:
    _refuse_precision(backend, precision)
    if backend.runs_plans:
        chosen = choose_plan(bundle.manifest.engines, host, precision, folder=bundle.folder)
        plan = require_plan(chosen)
        return Choice(backend.name, plan.precision, chosen.reason, plan)
    precision = precision or backend.precisions[0]
    if GRAPH_OF[precision] not in bundle.precisions:
        raise BackendError(
            f"the bundle has no {GRAPH_OF[precision]} graph, only {', '.join(bundle.precisions)}: choose one of these, "
            "or build the bundle again"
        )
    _refuse_closed(bundle, backend.name, precision)
    return Choice(backend.name, precision, reason)


def _refuse_closed(bundle: Bundle, backend: str, precision: ComputePrecision) -> None:
    reason = bundle.manifest.why_closed(backend, precision)
    if reason is not None:
        raise BackendError(
            f"this bundle does not run in {precision} on {backend}: when it was built, {reason}. Choose another "
            f"precision ({', '.join(known_backend(backend).precisions)}), or build it again on another processor"
        )


def _refuse_precision(backend: Backend, precision: ComputePrecision | None) -> None:
    if precision is not None and precision not in backend.precisions:
        able = [other.name for other in BACKENDS.values() if precision in other.precisions]
        raise BackendError(
            f"{backend.name} computes in {' or '.join(backend.precisions)}, not in {precision}: choose one of these, "
            f"or --backend {' or '.join(able)}"
        )
