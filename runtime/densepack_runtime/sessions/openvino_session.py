"""OpenVINO as a Session, on the CPU, in float32, bfloat16 or INT8.

    session = OpenVinoSession(bundle.graph("fp32"), precision="bf16", options=SessionOptions(cache=folder))

Its attention is one kernel, and it computes in bfloat16 or INT8 where the processor can: that is what it is here for.
All three run the float32 graph; INT8 is for products with weights, and what is left is bfloat16 where there is some.
With AMX, INT8 takes the ranges that the bundle holds beside the graph (`int8_ranges`).
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError, require
from densepack_runtime.host.files import sha256_of
from densepack_runtime.host.machine import processor_features
from densepack_runtime.sessions.compile_cache import KeptFile, digest
from densepack_runtime.sessions.int8_ranges import INT8_RANGES_NAME, Int8Ranges
from densepack_runtime.sessions.openvino_int8 import GROUP_SIZE, multiplies_int8, with_fixed_scales, with_int8_weights
from densepack_runtime.sessions.openvino_tiles import INSTRUCTION_SETS, fit_tiles, has_tiles
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import (
    OUTPUT_NAMES,
    Batch,
    ComputePrecision,
    Logits,
    SessionBase,
    refuse_foreign_graph,
)

_PRECISIONS: tuple[ComputePrecision, ...] = ("fp32", "bf16", "int8")
_TELEMETRY = "openvino_telemetry"
_PROBE_SIZE = 64
# oneTBB loads a library so that it sees glibc's `free` but memory of a preloaded allocator (tcmalloc, jemalloc), and
# the process ends; this switch makes it load that library like any other (uxlfoundation/oneTBB issue 1645).
_SHARED_ALLOCATOR = ("TBB_ENABLE_SANITIZERS", "1")


class OpenVinoSession(SessionBase):
    """Runs one ONNX file. Thread-safe.

    What OpenVINO compiles for this processor is kept in the folder `openvino` of the cache: the next start is faster,
    and faster still where the caller knows the graph's hash. OpenVINO's own cache is not used: it writes in place, so
    that processes which start together fail, and computes with damaged weights.
    Raises BackendError when the file is missing, damaged or not a graph of densepack, or when the processor does not
    multiply in `precision`; MissingDependencyError without openvino.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        precision: ComputePrecision = "fp32",
        options: SessionOptions = DEFAULT,
        graph_sha256: str | None = None,
    ) -> None:
        if precision not in _PRECISIONS:
            raise BackendError(f"OpenVINO computes in {', '.join(_PRECISIONS)}, not in {precision}")
        self._path = Path(path)
        self._lock = threading.Lock()
        compiled, self._weights = _compile(self._path, precision, options, graph_sha256)
        self._inputs = tuple(tensor.get_any_name() for tensor in compiled.inputs)
        self._request: Any = compiled.create_infer_request()

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the session is closed or OpenVINO fails."""
        with self._lock:  # a request has one set of buffers
            if self._request is None:
                raise BackendError(f"the session of {self._path.name} is closed")
            try:
                results = self._request.infer(batch.arrays(self._inputs), share_inputs=True)
            except RuntimeError as error:
                raise BackendError(f"OpenVINO failed on a batch of shape {batch.shape}: {error}") from error
            start, end = (results[name].copy() for name in OUTPUT_NAMES)
        if start.shape != batch.shape:  # OpenVINO 2026.4.1 without AVX computes nothing, and does not say so
            raise BackendError(
                f"OpenVINO gave logits of shape {start.shape} for a batch of {batch.shape}: it cannot "
                "compute on this processor, use --backend onnxruntime"
            )
        return Logits(start, end)

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._request = self._weights = None


@cache
def openvino_precisions() -> tuple[ComputePrecision, ...]:
    """What OpenVINO computes in on this processor, fp32 first; nothing where it is not installed."""
    try:
        openvino = import_openvino()
    except ImportError:
        return ()
    return (
        "fp32",
        *(("bf16",) if _computes_bfloat16(openvino) else ()),
        *(("int8",) if multiplies_int8(openvino) else ()),
    )


def _computes_bfloat16(openvino: Any) -> bool:
    """Whether this processor multiplies in bfloat16, and the kernels that may be used do.

    OpenVINO tells the first; where instruction sets are taken away it has no kernel for some nodes, and fails.
    """
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    ops = openvino.opset13
    factor = ops.parameter([-1, _PROBE_SIZE], np.float32)
    product = ops.matmul(factor, ops.constant(np.eye(_PROBE_SIZE, dtype=np.float32)), False, True)
    model = openvino.Model([ops.softmax(product, -1)], [factor])
    options = {"INFERENCE_PRECISION_HINT": "bf16"}
    rows = np.zeros((2, _PROBE_SIZE), np.float32)
    try:
        found = openvino.Core().compile_model(model, "CPU", options)([rows])[0]
    except RuntimeError:
        return False
    return bool(found.shape == rows.shape)


def import_openvino() -> ModuleType:
    """OpenVINO without its telemetry. Raises MissingDependencyError when it is not installed."""
    os.environ.setdefault(*_SHARED_ALLOCATOR)
    with _without_module(_TELEMETRY):
        return require("openvino", "openvino")


@contextmanager
def _without_module(name: str) -> Iterator[None]:
    """As if a package that was not imported yet were not installed; OpenVINO then takes its own stub of it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _compile(
    path: Path, precision: ComputePrecision, asked: SessionOptions, graph_sha256: str | None
) -> tuple[Any, NDArray[np.uint8] | None]:
    """The compiled model, and the memory that it computes from where that came from the cache."""
    openvino: Any = import_openvino()
    if not path.is_file():
        raise BackendError(f"the ONNX file {path} is missing")
    core = openvino.Core()
    able = openvino_precisions()
    if precision not in able:
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise BackendError(f"{name} does not multiply in {precision}: use --precision {' or '.join(able)}")
    options = compile_options(precision, asked.cpu_threads, bfloat16="bf16" in able)
    ranges = ranges_beside(path) if precision == "int8" else None
    if asked.cache is None:
        return _from_graph(openvino, core, path, precision, options, ranges), None
    hashes = [graph_sha256 or sha256_of(path), *([sha256_of(ranges)] if ranges else [])]
    name = cache_name(hashes, precision, options, openvino.__version__)
    kept = KeptFile(asked.cache / "openvino" / name)
    content = kept.read()
    if content is not None:
        try:
            return core.import_model(openvino.Tensor(content, shared_memory=True), "CPU", options), content
        except RuntimeError:
            kept.tell_useless("not what this OpenVINO wrote")
    compiled = _from_graph(openvino, core, path, precision, options, ranges)
    exported = io.BytesIO()
    compiled.export_model(exported)
    kept.write(exported.getbuffer())
    return compiled, None


def ranges_beside(graph: Path) -> Path | None:
    """The file of INT8 ranges to compile this graph with: one that is there, where the processor multiplies tiles."""
    ranges = graph.with_name(INT8_RANGES_NAME)
    return ranges if has_tiles() and ranges.is_file() else None


def _from_graph(
    openvino: Any,
    core: Any,
    path: Path,
    precision: ComputePrecision,
    options: Mapping[str, Any],
    ranges: Path | None,
) -> Any:
    try:
        model = core.read_model(str(path))
        _check_tensors(model, path)
        if precision != "fp32" and has_tiles():
            fit_tiles(openvino, model)
        if ranges is not None:
            with_fixed_scales(openvino, model, Int8Ranges.read(ranges))
        elif precision == "int8":
            with_int8_weights(openvino, model)
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot load {path}: {error}") from error


def compile_options(precision: ComputePrecision, threads: int, *, bfloat16: bool) -> dict[str, Any]:
    """What OpenVINO is told; `bfloat16` says whether the processor multiplies it."""
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" or not bfloat16 else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Pinned threads keep others off these cores, and those of another session would be pinned to the same ones.
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP_SIZE if precision == "int8" else 0,
    }


def cache_name(hashes: Sequence[str], precision: ComputePrecision, options: Mapping[str, Any], version: str) -> str:
    """The name of one compilation in the cache, after all that decides what comes of it; hashes of what it is from."""
    decides = {
        "files": list(hashes),
        "precision": precision,
        "options": dict(options),
        "openvino": version,
        "processor": processor_features(),
        "instruction sets": os.environ.get(INSTRUCTION_SETS, ""),
    }
    return f"{precision}-{digest(decides)}.blob"


def _check_tensors(model: Any, path: Path) -> None:
    found = {tensor.get_any_name(): tensor.get_element_type().get_type_name() for tensor in model.inputs}
    found |= {tensor.get_any_name(): tensor.get_element_type().get_type_name() for tensor in model.outputs}
    refuse_foreign_graph(path, found, "i64", "f32")
