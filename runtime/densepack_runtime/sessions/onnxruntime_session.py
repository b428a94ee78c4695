"""ONNX Runtime as a Session, on the CPU.

    session = OnnxRuntimeSession(bundle.graph("fp32"), SessionOptions(threads=2))

The provider that was asked for is the one that runs, or an error says why not; `onnxruntime_gpu` has those of a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from densepack_runtime.errors import BackendError, require
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import (
    OUTPUT_NAMES,
    Batch,
    Logits,
    SessionBase,
    refuse_foreign_graph,
)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_SEVERITY_ERROR = 3


class OnnxRuntimeSession(SessionBase):
    """Runs one ONNX file. Thread-safe.

    Raises BackendError when the file is missing, damaged or not a graph of densepack; MissingDependencyError without
    onnxruntime.
    """

    def __init__(self, path: str | Path, options: SessionOptions = DEFAULT) -> None:
        self._path = Path(path)
        self._session: Any = open_onnxruntime(self._path, "cpu", threads=options.cpu_threads)
        self._inputs = tuple(tensor.name for tensor in self._session.get_inputs())

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the session is closed or ONNX Runtime fails."""
        session = self._session
        if session is None:
            raise BackendError(f"the session of {self._path.name} is closed")
        try:
            start, end = session.run(list(OUTPUT_NAMES), batch.arrays(self._inputs))
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise BackendError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        return Logits(start, end)

    def close(self) -> None:
        """Free the model."""
        self._session = None


def open_onnxruntime(
    path: Path, provider: str, *, threads: int | None = None, provider_options: Mapping[str, str] | None = None
) -> Any:
    """An InferenceSession on exactly this provider ("cpu", "cuda" or "tensorrt"), with densepack's inputs and outputs.

    Raises BackendError when the provider is not to be had, or the file is missing, damaged or foreign.
    """
    runtime: Any = require("onnxruntime", "cpu" if provider == "cpu" else "gpu")
    conflict = onnxruntime_conflict()
    if conflict is not None:
        raise BackendError(conflict)
    name = _provider_name(runtime, provider)
    if not path.is_file():
        raise BackendError(f"the ONNX file {path} is missing")
    if provider != "cpu":
        # CUDA and cuDNN may come from pip's packages, where the loader does not look. What is not found is printed.
        with redirect_stdout(sys.stderr):
            runtime.preload_dlls()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or DEFAULT.cpu_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    offered = [(name, dict(provider_options or {}))]
    try:
        session = runtime.InferenceSession(str(path), sess_options=options, providers=offered)
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
    got = session.get_providers()[0]
    if got != name:
        raise BackendError(
            f"{name} was asked for and ONNX Runtime took {got}: the provider's libraries are not complete here "
            "(CUDA, cuDNN and TensorRT of the versions that this onnxruntime-gpu was built for)"
        )
    _check_tensors(session, path)
    return session


def _provider_name(runtime: Any, provider: str) -> str:
    if provider not in PROVIDERS:
        raise BackendError(f"unknown provider {provider!r}; known: {', '.join(PROVIDERS)}")
    available = runtime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise BackendError(
            f"onnxruntime has no {PROVIDERS[provider]} here (it has {', '.join(available)}): pip install "
            "'densepack[gpu]' instead of 'densepack[cpu]' on a host with an NVIDIA GPU"
        )
    return PROVIDERS[provider]


def _check_tensors(session: Any, path: Path) -> None:
    found = {tensor.name: tensor.type for tensor in (*session.get_inputs(), *session.get_outputs())}
    refuse_foreign_graph(path, found, "tensor(int64)", "tensor(float)")


def onnxruntime_conflict() -> str | None:
    """What is wrong when both distributions of onnxruntime are installed, with the cure; else None.

    They share one module folder, so the one installed last wins, and removing either breaks the other.
    """
    if not (_installed("onnxruntime") and _installed("onnxruntime-gpu")):
        return None
    return (
        "both onnxruntime and onnxruntime-gpu are installed; they overwrite each other. Keep one: pip uninstall -y "
        "onnxruntime onnxruntime-gpu && pip install 'densepack[gpu]' (or 'densepack[cpu]')"
    )


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
