"""Which backend runs a bundle here, and why.

    choice = choose_backend(bundle)                # Choice(backend="onnxruntime", precision="fp32", reason="…")
    with closing(open_session(bundle)) as session: ...

`auto` is a documented order and never a fallback after a failure: a backend that is chosen and then fails is an error.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from dataclasses import dataclass

from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError
from densepack_runtime.session import Precision, Session

BACKENDS = ("auto", "onnxruntime", "onnxruntime-cuda")
DEFAULT_PRECISION: dict[str, Precision] = {"onnxruntime": "fp32", "onnxruntime-cuda": "fp16"}
_PROVIDERS = {"onnxruntime": "cpu", "onnxruntime-cuda": "cuda"}
_LOGGER = logging.getLogger("densepack")


@dataclass(frozen=True, slots=True)
class Choice:
    """What `open_session` would open: backend, precision, and the reason in words."""

    backend: str
    precision: Precision
    reason: str


def choose_backend(bundle: Bundle, backend: str = "auto", precision: Precision | None = None) -> Choice:
    """Decide on backend and precision. Raises BackendError for unknown names and precisions the bundle lacks."""
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    reason = "asked for"
    if backend == "auto":
        backend, reason = _best_backend()
    precision = precision or DEFAULT_PRECISION[backend]
    if precision not in bundle.precisions:
        raise BackendError(
            f"the bundle has no {precision} graph, only {', '.join(bundle.precisions)}: choose one of these, or build "
            "the bundle again"
        )
    return Choice(backend, precision, reason)


def open_session(
    bundle: Bundle, *, backend: str = "auto", precision: Precision | None = None, threads: int | None = None
) -> Session:
    """Open the session that `choose_backend` names. `threads` counts CPU threads, default the physical cores."""
    from densepack_runtime.onnxruntime_session import OnnxRuntimeSession

    choice = choose_backend(bundle, backend, precision)
    _LOGGER.info("backend %s, %s: %s", choice.backend, choice.precision, choice.reason)
    return OnnxRuntimeSession(bundle.graph(choice.precision), provider=_PROVIDERS[choice.backend], threads=threads)


def _best_backend() -> tuple[str, str]:
    gpus = nvidia_gpu_count()
    if gpus == 0:
        return "onnxruntime", "no NVIDIA GPU here"
    if not _has_cuda_provider():
        return (
            "onnxruntime",
            "an NVIDIA GPU is here, but onnxruntime has no CUDA provider (pip install 'densepack[gpu]')",
        )
    return "onnxruntime-cuda", f"{gpus} NVIDIA GPU(s) and onnxruntime's CUDA provider are here"


def _has_cuda_provider() -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def nvidia_gpu_count() -> int:
    """Number of NVIDIA GPUs that the driver shows; 0 without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
