"""CUDA as the TensorRT session needs it: streams, events, memory and graphs, every return value checked.

    cuda = CudaDevice(0)
    stream, buffer = cuda.stream(), cuda.device_memory(1024)
    ...
    cuda.close()                                 # frees everything that was made here, in reverse order

Over cuda-python (`cuda.bindings.runtime`), whose calls return (error, result, …). Some errors are sticky: the CUDA
context of the process is broken, and every later call fails. The device then refuses further work and says so.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError, require

_LOGGER = logging.getLogger("densepack")
# After these the CUDA context is gone (https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html: the
# errors that say "the process must be terminated and relaunched").
STICKY_ERRORS = frozenset(
    {
        "cudaErrorIllegalAddress",
        "cudaErrorLaunchTimeout",
        "cudaErrorHardwareStackError",
        "cudaErrorIllegalInstruction",
        "cudaErrorMisalignedAddress",
        "cudaErrorInvalidAddressSpace",
        "cudaErrorInvalidPc",
        "cudaErrorLaunchFailure",
        "cudaErrorAssert",
        "cudaErrorECCUncorrectable",
        "cudaErrorNvlinkUncorrectable",
        "cudaErrorContained",
        "cudaErrorTensorMemoryLeak",
    }
)


class CudaDevice:
    """One GPU, and all that was allocated on it through this object. Safe to use from several threads.

    Raises BackendError when the GPU cannot be had, MissingDependencyError without cuda-python.
    """

    def __init__(self, index: int = 0) -> None:
        require("cuda.bindings.runtime", "gpu")
        from cuda.bindings import runtime

        self.api: Any = runtime
        self.index = index
        self.broken = ""
        self._cleanups: list[tuple[object, str, Callable[[], Any]]] = []
        self._lock = threading.Lock()
        self.use()

    def use(self) -> None:
        """Make this GPU the current one of the calling thread."""
        self.check(self.api.cudaSetDevice(self.index), f"choosing GPU {self.index}")

    def check(self, returned: Any, doing: str) -> Any:
        """The result of a call, without its error code. Raises BackendError that names the error."""
        error, *results = returned if isinstance(returned, tuple) else (returned,)
        if error != self.api.cudaError_t.cudaSuccess:
            raise self._error(error, doing)
        return results[0] if len(results) == 1 else tuple(results)

    def _error(self, error: Any, doing: str) -> BackendError:
        name = error.name
        if name in STICKY_ERRORS:
            self.broken = f"{name} while {doing}"
            return BackendError(
                f"CUDA failed with {self.broken}. The GPU is of no more use to this process: end it and start again"
            )
        hint = ": use smaller batches, or free memory on the GPU" if name == "cudaErrorMemoryAllocation" else ""
        return BackendError(f"CUDA failed with {name} while {doing}{hint}")

    def refuse_if_broken(self) -> None:
        """Raise BackendError when an earlier error broke the CUDA context of this process."""
        if self.broken:
            raise BackendError(f"the GPU is of no more use to this process since {self.broken}: start it again")

    def stream(self) -> int:
        """A stream of its own (non-blocking: not tied to the default stream), as an integer handle."""
        api = self.api
        stream = self.check(api.cudaStreamCreateWithFlags(api.cudaStreamNonBlocking), "making a stream")
        self._keep(stream, "freeing a stream", lambda: api.cudaStreamDestroy(stream))
        return int(stream)

    def event(self) -> Any:
        """An event without timing."""
        api = self.api
        event = self.check(api.cudaEventCreateWithFlags(api.cudaEventDisableTiming), "making an event")
        self._keep(event, "freeing an event", lambda: api.cudaEventDestroy(event))
        return event

    def device_memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        address = int(self.check(self.api.cudaMalloc(size), f"taking {size / 2**20:.1f} MiB of GPU memory"))
        self._keep(address, "freeing GPU memory", lambda: self.api.cudaFree(address))
        return address

    def pinned_array(self, count: int, dtype: type[np.int64 | np.float32]) -> NDArray[Any]:
        """A page-locked array [count], which the GPU copies from and to while the processor goes on."""
        size = count * np.dtype(dtype).itemsize
        doing = f"taking {size / 2**20:.1f} MiB of pinned memory"
        address = int(self.check(self.api.cudaHostAlloc(size, self.api.cudaHostAllocDefault), doing))
        self._keep(address, "freeing pinned memory", lambda: self.api.cudaFreeHost(address))
        memory = (ctypes.c_char * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype=np.dtype(dtype))

    def copy_to_device(self, target: int, source: NDArray[Any], size: int, stream: int) -> None:
        """Queue a copy of the first `size` bytes of a pinned array to GPU memory."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.check(self.api.cudaMemcpyAsync(target, source.ctypes.data, size, kind, stream), "copying inputs")

    def copy_to_host(self, target: NDArray[Any], source: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes of GPU memory to the beginning of a pinned array."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.check(self.api.cudaMemcpyAsync(target.ctypes.data, source, size, kind, stream), "copying logits")

    def record(self, event: Any, stream: int) -> None:
        """Mark the work that is queued on a stream now."""
        self.check(self.api.cudaEventRecord(event, stream), "recording an event")

    def wait(self, event: Any) -> None:
        """Wait until all work before the event is done; errors of that work arrive here."""
        self.check(self.api.cudaEventSynchronize(event), "computing a batch")

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done all its work."""
        self.check(self.api.cudaStreamSynchronize(stream), "waiting for a stream")

    def settle(self, stream: int) -> None:
        """Wait for a stream whatever comes of it: for after an error, and before memory is freed."""
        self._forget_error(self.api.cudaSetDevice(self.index))
        self._forget_error(self.api.cudaStreamSynchronize(stream), "waiting for a stream")

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """An executable graph of what `work` queues on the stream; nothing of it runs now."""
        api = self.api
        # Relaxed would let other threads allocate meanwhile; thread-local is what lanes in several threads need.
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.check(api.cudaStreamBeginCapture(stream, mode), "beginning a CUDA graph")
        try:
            work()
        except BaseException:
            self._end_quietly(api.cudaStreamEndCapture(stream))
            raise
        graph = self.check(api.cudaStreamEndCapture(stream), "ending a CUDA graph")
        try:
            return self.check(api.cudaGraphInstantiate(graph, 0), "making a CUDA graph executable")
        finally:
            self._forget_error(api.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: int) -> None:
        """Queue all of a graph's work."""
        self.check(self.api.cudaGraphLaunch(graph, stream), "launching a CUDA graph")

    def free_graph(self, graph: Any) -> None:
        self._forget_error(self.api.cudaGraphExecDestroy(graph), "freeing a CUDA graph")

    def close(self) -> None:
        """Free everything that was made here. Never raises: after a CUDA error there is nothing to be done about it."""
        with self._lock:
            cleanups, self._cleanups = self._cleanups, []
        self._forget_error(self.api.cudaSetDevice(self.index))
        for _, doing, free in reversed(cleanups):
            self._forget_error(free(), doing)

    def _keep(self, handle: object, doing: str, free: Callable[[], Any]) -> None:
        with self._lock:
            self._cleanups.append((handle, doing, free))

    def _end_quietly(self, returned: Any) -> None:
        error, graph = returned
        if error == self.api.cudaError_t.cudaSuccess:
            self._forget_error(self.api.cudaGraphDestroy(graph))

    def _forget_error(self, returned: Any, doing: str = "cleaning up") -> None:
        error = returned[0] if isinstance(returned, tuple) else returned
        if error != self.api.cudaError_t.cudaSuccess and not self.broken:
            _LOGGER.warning("CUDA reported %s while %s", error.name, doing)
