"""A lane: everything one batch at a time needs on the GPU, so that lanes can work side by side.

A lane has a stream of its own, per profile an execution context with pinned and device buffers of the profile's
largest shape, and CUDA graphs of the shapes it has seen. One thread uses a lane at a time.

    lane.submit(batch, profile=2, shape=(8, 384))     # queues copies and compute, returns at once
    logits = lane.result()                            # waits, copies the logits out
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError
from densepack_runtime.sessions.session import OUTPUT_NAMES, Batch, Logits, inputs_among
from densepack_runtime.sessions.shapes import Profile, fill_padded
from densepack_runtime.tensorrt_plans.cuda_device import CudaDevice
from densepack_runtime.tensorrt_plans.engine import tensor_names

if TYPE_CHECKING:
    import tensorrt as trt_types
    import tensorrt_rtx as rtx_types

# Graphs are small next to a context's memory; a stream of SQuAD meets about forty (batch, length) buckets.
GRAPHS_KEPT = 64
_INPUT_BYTES = np.dtype(np.int64).itemsize
_OUTPUT_BYTES = np.dtype(np.float32).itemsize


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Flat arrays of the largest shape of a profile: pinned on the host, and addresses on the GPU, by tensor name."""

    context: trt_types.IExecutionContext
    host: dict[str, NDArray[Any]]
    device: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch under way: what its logits will be cut to, and from which rows."""

    buffers: _Buffers
    shape: tuple[int, int]
    real: tuple[int, int]


class Lane:
    """Made by the session. Every TensorRT call that says no becomes a BackendError with the tensor and the shape."""

    def __init__(
        self,
        cuda: CudaDevice,
        engine: trt_types.ICudaEngine,
        profiles: tuple[Profile, ...],
        *,
        runtime_config: rtx_types.IRuntimeConfig | None = None,
        cuda_graphs: bool = True,
        debug_listener: trt_types.IDebugListener | None = None,
    ) -> None:
        self._cuda = cuda
        self._engine = engine
        self._inputs = inputs_among(tensor_names(engine))
        self._profiles = profiles
        self._runtime_config = runtime_config
        self._cuda_graphs = cuda_graphs
        self._debug_listener = debug_listener
        self._stream = cuda.stream()
        self._done = cuda.event()
        self._buffers: dict[int, _Buffers] = {}
        self._graphs: OrderedDict[tuple[int, tuple[int, int]], Any] = OrderedDict()
        self._pending: _Pending | None = None
        self._closed = False
        self._lock = threading.Lock()  # held while a call is inside CUDA: `close` may come from another thread

    def submit(self, batch: Batch, profile: int, shape: tuple[int, int]) -> None:
        """Queue a batch, padded to `shape`. The lane must be free: `result` of the batch before has been taken."""
        with self._lock:
            self._refuse_if_closed()
            self._submit(batch, profile, shape)

    def result(self) -> Logits:
        """The logits of the batch under way, copied out of the pinned buffers."""
        with self._lock:
            self._refuse_if_closed()
            pending, self._pending = self._pending, None
            if pending is None:
                raise BackendError("a lane was asked for a result and has no batch under way")
            self._cuda.wait(self._done)
            return _logits(pending)

    def recover(self) -> None:
        """Wait for whatever is under way and forget it, errors included; for after a failure."""
        with self._lock:
            self._pending = None
            if not self._closed:
                self._cuda.settle(self._stream)

    def close(self) -> None:
        """Let go of graphs and contexts. Memory, stream and event belong to the CudaDevice."""
        with self._lock:
            self._closed = True
            self._pending = None
            self._cuda.settle(self._stream)
            for graph in self._graphs.values():
                if graph is not None:
                    self._cuda.free_graph(graph)
            self._graphs.clear()
            self._buffers.clear()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BackendError("the TensorRT session is closed")

    def _submit(self, batch: Batch, profile: int, shape: tuple[int, int]) -> None:
        self._cuda.refuse_if_broken()
        self._cuda.use()  # the current GPU belongs to the thread, and lanes change threads
        if profile not in self._buffers:
            self._buffers[profile] = self._open_profile(profile)
        buffers = self._buffers[profile]
        count = math.prod(shape)
        fill_padded(batch, {name: buffers.host[name][:count].reshape(shape) for name in self._inputs})
        self._execute(profile, shape)
        self._cuda.record(self._done, self._stream)
        self._pending = _Pending(buffers, shape, batch.shape)

    def _execute(self, profile: int, shape: tuple[int, int]) -> None:
        """Queue copies and compute. A shape is run plainly the first time, captured the second, replayed after."""
        key = (profile, shape)
        if not self._cuda_graphs:
            self._queue(profile, shape)
        elif key not in self._graphs:
            self._queue(profile, shape)
            self._remember(key, None)
        else:
            graph = self._graphs[key]
            if graph is None:
                self._set_shapes(profile, shape)
                graph = self._cuda.capture(self._stream, lambda: self._enqueue(profile, shape))
            self._remember(key, graph)
            self._cuda.launch(graph, self._stream)

    def _remember(self, key: tuple[int, tuple[int, int]], graph: Any) -> None:
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        if len(self._graphs) > GRAPHS_KEPT:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._cuda.free_graph(oldest)

    def _queue(self, profile: int, shape: tuple[int, int]) -> None:
        self._set_shapes(profile, shape)
        self._enqueue(profile, shape)

    def _set_shapes(self, profile: int, shape: tuple[int, int]) -> None:
        context = self._buffers[profile].context
        for name in self._inputs:
            if not context.set_input_shape(name, shape):
                raise BackendError(f"TensorRT refused the shape {shape} of {name} in {self._profiles[profile]}")
        missing = context.infer_shapes()
        if missing:
            raise BackendError(f"TensorRT does not know the shape of {', '.join(missing)} for a batch of {shape}")

    def _enqueue(self, profile: int, shape: tuple[int, int]) -> None:
        buffers, count = self._buffers[profile], math.prod(shape)
        for name in self._inputs:
            self._cuda.copy_to_device(buffers.device[name], buffers.host[name], count * _INPUT_BYTES, self._stream)
        if not buffers.context.execute_async_v3(self._stream):
            raise BackendError(f"TensorRT could not run a batch of {shape} in the profile {self._profiles[profile]}")
        for name in OUTPUT_NAMES:
            self._cuda.copy_to_host(buffers.host[name], buffers.device[name], count * _OUTPUT_BYTES, self._stream)

    def _open_profile(self, profile: int) -> _Buffers:
        context = self._make_context(profile)
        largest = math.prod(self._profiles[profile].max)
        host: dict[str, NDArray[Any]] = {}
        device: dict[str, int] = {}
        for names, dtype, size in ((self._inputs, np.int64, _INPUT_BYTES), (OUTPUT_NAMES, np.float32, _OUTPUT_BYTES)):
            for name in names:
                host[name] = self._cuda.pinned_array(largest, dtype)
                device[name] = self._cuda.device_memory(largest * size)
                if not context.set_tensor_address(name, device[name]):
                    raise BackendError(f"TensorRT refused the buffer of {name} ({largest * size} bytes)")
        return _Buffers(context, host, device)

    def _make_context(self, profile: int) -> trt_types.IExecutionContext:
        config = self._runtime_config
        made = (
            self._engine.create_execution_context() if config is None else self._engine.create_execution_context(config)
        )
        if made is None:
            raise BackendError(
                f"TensorRT made no execution context for the profile {self._profiles[profile]}: the GPU has too little "
                "free memory for its largest batch"
            )
        if not made.set_optimization_profile_async(profile, self._stream):
            raise BackendError(f"TensorRT did not switch to profile {profile}: {self._profiles[profile]}")
        self._cuda.synchronize(self._stream)
        if self._debug_listener is not None:
            listens = made.set_debug_listener(self._debug_listener) and made.set_all_tensors_debug_state(True)
            if not listens:
                raise BackendError("TensorRT does not let anybody listen to the plan's tensors")
        return made


def _logits(pending: _Pending) -> Logits:
    rows, length = pending.real
    start, end = (
        pending.buffers.host[name][: math.prod(pending.shape)].reshape(pending.shape)[:rows, :length].copy()
        for name in OUTPUT_NAMES
    )
    return Logits(start, end)
