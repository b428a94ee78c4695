"""ONNX Runtime as a Session, on the CPU or through its CUDA provider.

    session = OnnxRuntimeSession(bundle.graph("fp32"), provider="cpu", threads=2)

The provider that was asked for is the one that runs, or an error says why not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from densepack_runtime.errors import BackendError, require
from densepack_runtime.session import INPUT_NAMES, OUTPUT_NAMES, Batch, Logits

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SEVERITY_ERROR = 3


class OnnxRuntimeSession:
    """Runs one ONNX file. `threads` counts CPU threads, by default the physical cores. Thread-safe.

    Raises BackendError when the file is missing, damaged or not a graph of densepack, or when the provider is not to
    be had; MissingDependencyError without onnxruntime.
    """

    def __init__(self, path: str | Path, *, provider: str = "cpu", threads: int | None = None) -> None:
        runtime: Any = require("onnxruntime", "gpu" if provider == "cuda" else "cpu")
        conflict = onnxruntime_conflict()
        if conflict is not None:
            raise BackendError(conflict)
        self._path = Path(path)
        self._session: Any = _open(runtime, self._path, _provider_name(runtime, provider), threads)
        _check_tensors(self._session, self._path)

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the session is closed or ONNX Runtime fails."""
        session = self._session
        if session is None:
            raise BackendError(f"the session of {self._path.name} is closed")
        try:
            start, end = session.run(list(OUTPUT_NAMES), batch.arrays())
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise BackendError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        return Logits(start.astype(np.float32, copy=False), end.astype(np.float32, copy=False))

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order."""
        return map(self.run, batches)

    def close(self) -> None:
        """Free the model."""
        self._session = None


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


def _open(runtime: Any, path: Path, provider: str, threads: int | None) -> Any:
    if not path.is_file():
        raise BackendError(f"the ONNX file {path} is missing")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or physical_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _SEVERITY_ERROR
    try:
        session = runtime.InferenceSession(str(path), sess_options=options, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
    got = session.get_providers()[0]
    if got != provider:
        raise BackendError(
            f"{provider} was asked for and ONNX Runtime took {got}: the provider's libraries are not complete here "
            "(CUDA and cuDNN of the versions that this onnxruntime-gpu was built for)"
        )
    return session


def _check_tensors(session: Any, path: Path) -> None:
    inputs = sorted(tensor.name for tensor in session.get_inputs())
    outputs = sorted(tensor.name for tensor in session.get_outputs())
    if inputs != sorted(INPUT_NAMES) or outputs != sorted(OUTPUT_NAMES):
        raise BackendError(
            f"{path.name} is not a graph of densepack: it has inputs {inputs} and outputs {outputs}, and "
            f"{sorted(INPUT_NAMES)} and {sorted(OUTPUT_NAMES)} are needed"
        )


def physical_cores() -> int:
    """Physical cores that this process may use; hyper-threads share the units that matrix products need."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(topology.read_text(encoding="ascii").strip() if topology.is_file() else str(cpu))
    return max(1, len(siblings))


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
