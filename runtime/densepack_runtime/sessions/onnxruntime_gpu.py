"""ONNX Runtime on a GPU: the CUDA provider with bound buffers and CUDA graphs, or the TensorRT provider with profiles.

    session = OnnxRuntimeGpuSession(bundle.graph("fp16"), provider="cuda")

Batches are padded to buckets, so that there are few shapes: a CUDA graph belongs to one shape and its buffers, and the
TensorRT provider builds an engine for a range of shapes at the first run (minutes; kept in a cache folder).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densepack_runtime.errors import BackendError, InputError, require
from densepack_runtime.host.files import sha256_of
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.compile_cache import KeptFolder, digest
from densepack_runtime.sessions.onnxruntime_session import open_onnxruntime
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import OUTPUT_NAMES, Batch, Logits, SessionBase
from densepack_runtime.sessions.shapes import bucket, bucket_profiles, fill_padded

MAX_BATCH = 64
# Shapes that keep bound buffers and a CUDA graph; later ones run without a graph.
GRAPHS_KEPT = 64
_NO_GRAPH = -1  # gpu_graph_id that tells ONNX Runtime not to capture


class OnnxRuntimeGpuSession(SessionBase):
    """Runs one ONNX file on the first GPU. Calls from several threads take turns, as captured graphs demand.

    `provider` is "cuda" or "tensorrt" ("cpu" runs the same steps without a GPU, for tests). Raises BackendError like
    OnnxRuntimeSession.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        provider: str = "cuda",
        options: SessionOptions = DEFAULT,
        graph_sha256: str | None = None,
    ) -> None:
        self._runtime: Any = require("onnxruntime", "gpu")
        self._path = Path(path)
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._max_length = options.max_length
        self._graphs = options.cuda_graphs and provider == "cuda"
        told = provider_options(provider, options)
        self._kept: KeptFolder | None = None
        if provider == "tensorrt" and options.cache is not None:
            name = engines_name(graph_sha256 or sha256_of(self._path), told, self._runtime.__version__)
            self._kept = KeptFolder(options.cache / "onnxruntime-tensorrt" / name)
            told |= engine_cache_options(self._kept.open())
        try:
            self._session: Any = open_onnxruntime(self._path, provider, provider_options=told)
        except BaseException:
            self._close_cache(keep=False)
            raise
        self._bindings: dict[tuple[int, int], _Binding] = {}
        self._turn = threading.Lock()

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises InputError beyond the largest length, BackendError when ONNX Runtime fails."""
        with self._turn:
            if self._session is None:
                raise BackendError(f"the session of {self._path.name} is closed")
            rows, length = batch.shape
            if length > self._max_length:
                raise InputError(
                    f"a batch of {rows}x{length} is longer than the {self._max_length} tokens this session is for"
                )
            shape = bucket(batch.shape, (MAX_BATCH, self._max_length))
            try:
                return self._run(batch, shape)
            except Exception as error:  # onnxruntime's errors have no common base but Exception
                raise BackendError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error

    def close(self) -> None:
        """Free the model and its buffers."""
        with self._turn:
            self._bindings.clear()
            self._session = None
            self._close_cache(keep=True)

    def _close_cache(self, *, keep: bool) -> None:
        if self._kept is not None:
            self._kept.close(keep=keep)

    def _run(self, batch: Batch, shape: tuple[int, int]) -> Logits:
        kept = shape in self._bindings or len(self._bindings) < GRAPHS_KEPT
        binding = self._bindings.get(shape) or _Binding(self._runtime, self._session, shape, self._device)
        if kept:
            self._bindings[shape] = binding
        options = self._runtime.RunOptions()
        if self._graphs:
            number = list(self._bindings).index(shape) if kept else _NO_GRAPH
            options.add_run_config_entry("gpu_graph_id", str(number))
        start, end = binding.run(self._session, batch, options)
        rows, length = batch.shape
        return Logits(start[:rows, :length].copy(), end[:rows, :length].copy())


class _Binding:
    """Buffers of one padded shape, bound to the session once: a CUDA graph is tied to their addresses."""

    def __init__(self, runtime: Any, session: Any, shape: tuple[int, int], device: str) -> None:
        self._shape = shape
        self._inputs = tuple(tensor.name for tensor in session.get_inputs())
        self._values = {
            name: runtime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device, 0)
            for names, dtype in ((self._inputs, np.int64), (OUTPUT_NAMES, np.float32))
            for name in names
        }
        self._io = session.io_binding()
        for name in self._inputs:
            self._io.bind_ortvalue_input(name, self._values[name])
        for name in OUTPUT_NAMES:
            self._io.bind_ortvalue_output(name, self._values[name])

    def run(self, session: Any, batch: Batch, options: Any) -> tuple[Any, Any]:
        """Start and end logits of the padded shape, on the host."""
        padded = {name: np.empty(self._shape, dtype=np.int64) for name in self._inputs}
        fill_padded(batch, padded)
        for name, array in padded.items():
            self._values[name].update_inplace(array)
        self._io.synchronize_inputs()
        session.run_with_iobinding(self._io, options)
        self._io.synchronize_outputs()
        start, end = (self._values[name].numpy() for name in OUTPUT_NAMES)
        return start, end


def provider_options(provider: str, asked: SessionOptions) -> dict[str, str]:
    """Options of the CUDA or the TensorRT provider, as ONNX Runtime spells them."""
    if provider == "cuda":
        return {"enable_cuda_graph": "1" if asked.cuda_graphs else "0"}
    if provider != "tensorrt":
        return {}
    [profile] = bucket_profiles([asked.max_length], MAX_BATCH, max_length=asked.max_length)
    shapes = {
        name: ",".join(f"{tensor}:{batch}x{length}" for tensor in asked.inputs)
        for name, (batch, length) in (("min", profile.min), ("opt", profile.opt), ("max", profile.max))
    }
    options = {f"trt_profile_{name}_shapes": text for name, text in shapes.items()}
    options["trt_cuda_graph_enable"] = "0"  # one graph for one shape; here shapes change
    return options


def engine_cache_options(folder: Path | None) -> dict[str, str]:
    """Options of the TensorRT provider that make it keep its engines in a folder."""
    if folder is None:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def engines_name(graph_sha256: str, told: Mapping[str, str], version: str) -> str:
    """The folder for the engines of one graph; the provider names them after its nodes, not after its weights."""
    host = Host.here()
    return digest(
        {
            "graph": graph_sha256,
            "options": dict(told),
            "onnxruntime": version,
            "tensorrt": dict(host.tensorrt),
            "gpu": str(host.gpu),
        }
    )
