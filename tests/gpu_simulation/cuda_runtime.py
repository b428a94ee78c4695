# ruff: noqa: N802, N803, N815  the names are CUDA's
"""A **simulation** of cuda-python's `cuda.bindings.runtime` on host memory. Nothing measured on it is CUDA's.

Work on a stream waits until somebody synchronises: a result that is read too early is still poison, and a pinned buffer
that is written while a copy from it is queued is noticed. Memory is checked at the moment the work runs, as on a GPU:
an address that is no longer allocated gives cudaErrorIllegalAddress, and every later call fails.
"""

from __future__ import annotations

import ctypes
import enum
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tests.gpu_simulation.faults import Faults

ALIGNMENT = 256
POISON = 0xA5


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class MemcpyKind(enum.IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


OK = Error.cudaSuccess
INVALID = Error.cudaErrorInvalidValue
HANDLE = Error.cudaErrorInvalidResourceHandle
Work = Callable[[], None]


class IllegalAddressError(Exception):
    """Queued work touched memory that is not allocated."""


@dataclass
class Stream:
    """Work that waits, and while capturing the work that goes into a graph."""

    queue: list[Work | int] = field(default_factory=list)  # an integer is an event
    captured: list[Work] | None = None


@dataclass
class SimulatedCuda:
    """The functions of the module, and what is alive. `violations` lists what a real GPU would not forgive."""

    faults: Faults = field(default_factory=Faults)
    violations: list[str] = field(default_factory=list)
    memory: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    pinned: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    events: set[int] = field(default_factory=set)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    executables: dict[int, list[Work]] = field(default_factory=dict)
    sticky: Error = OK
    next_handle: int = 1000

    cudaError_t: ClassVar[Any] = Error
    cudaMemcpyKind: ClassVar[Any] = MemcpyKind
    cudaStreamCaptureMode: ClassVar[Any] = CaptureMode
    cudaStreamNonBlocking: ClassVar[int] = 1
    cudaEventDisableTiming: ClassVar[int] = 2
    cudaHostAllocDefault: ClassVar[int] = 0

    def live(self) -> dict[str, int]:
        """Counts of everything that has not been freed."""
        return {
            "memory": len(self.memory),
            "pinned": len(self.pinned),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs),
            "execs": len(self.executables),
        }

    def _begin(self, name: str) -> Error:
        if self.sticky != OK:
            return self.sticky
        if self.faults.strikes(name):
            return Error.cudaErrorMemoryAllocation if "lloc" in name else INVALID
        return OK

    def _handle(self) -> int:
        self.next_handle += 1
        return self.next_handle

    def _allocate(self, held: dict[int, NDArray[np.uint8]], size: int) -> tuple[Error, int]:
        if size <= 0:
            return INVALID, 0
        raw = np.full(size + ALIGNMENT, POISON, dtype=np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        view = raw[start : start + size]
        held[view.ctypes.data] = view
        return OK, view.ctypes.data

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes of live device memory. Raises IllegalAddressError."""
        for start, array in self.memory.items():
            if start <= address and address + size <= start + len(array):
                return array[address - start : address - start + size]
        raise IllegalAddressError(f"{size} bytes at {address:#x}")

    def enqueue(self, stream: int, work: Work) -> Error:
        """Queue work on a stream, or record it while the stream is captured."""
        if stream not in self.streams:
            return HANDLE
        entry = self.streams[stream]
        (entry.queue if entry.captured is None else entry.captured).append(work)
        return OK

    def _run(self, stream: Stream, until: int | None = None) -> Error:
        while stream.queue:
            work = stream.queue.pop(0)
            if isinstance(work, int):
                if work == until:
                    return OK
                continue
            try:
                work()
            except IllegalAddressError:
                self.sticky = Error.cudaErrorIllegalAddress
                return self.sticky
        return OK

    # --- the functions of cuda.bindings.runtime -------------------------------------------------------------------

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        error = self._begin("cudaSetDevice")
        return (error if error else (OK if device == 0 else INVALID),)

    def cudaMalloc(self, size: int) -> tuple[Error, int]:
        error = self._begin("cudaMalloc")
        return (error, 0) if error else self._allocate(self.memory, size)

    def cudaFree(self, devPtr: int) -> tuple[Error]:
        error = self._begin("cudaFree")
        return (error if error else (OK if self.memory.pop(devPtr, None) is not None else INVALID),)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, int]:
        error = self._begin("cudaHostAlloc")
        return (error, 0) if error else self._allocate(self.pinned, size)

    def cudaFreeHost(self, ptr: int) -> tuple[Error]:
        error = self._begin("cudaFreeHost")
        return (error if error else (OK if self.pinned.pop(ptr, None) is not None else INVALID),)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: MemcpyKind, stream: int) -> tuple[Error]:
        error = self._begin("cudaMemcpyAsync")
        if error:
            return (error,)
        to_device = kind == MemcpyKind.cudaMemcpyHostToDevice
        captured = stream in self.streams and self.streams[stream].captured is not None
        seen = zlib.crc32(_host(src, count).tobytes()) if to_device and not captured else None

        def copy() -> None:
            if to_device:
                if seen is not None and zlib.crc32(_host(src, count).tobytes()) != seen:
                    self.violations.append("a pinned buffer was written while a copy from it was queued")
                self.view(dst, count)[:] = _host(src, count)
            else:
                _host(dst, count)[:] = self.view(src, count)

        return (self.enqueue(stream, copy),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        error = self._begin("cudaStreamCreateWithFlags")
        if error:
            return error, 0
        handle = self._handle()
        self.streams[handle] = Stream()
        return OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        error = self._begin("cudaStreamDestroy")
        return (error if error else (OK if self.streams.pop(stream, None) is not None else HANDLE),)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        error = self._begin("cudaStreamSynchronize")
        if error:
            return (error,)
        if stream not in self.streams:
            return (HANDLE,)
        if self.streams[stream].captured is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        return (self._run(self.streams[stream]),)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        error = self._begin("cudaEventCreateWithFlags")
        if error:
            return error, 0
        handle = self._handle()
        self.events.add(handle)
        return OK, handle

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        error = self._begin("cudaEventDestroy")
        if error:
            return (error,)
        if event not in self.events:
            return (HANDLE,)
        self.events.remove(event)
        return (OK,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        error = self._begin("cudaEventRecord")
        if error:
            return (error,)
        if event not in self.events or stream not in self.streams:
            return (HANDLE,)
        self.streams[stream].queue.append(event)
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        error = self._begin("cudaEventSynchronize")
        if error:
            return (error,)
        if event not in self.events:
            return (HANDLE,)
        for stream in self.streams.values():
            if event in stream.queue:
                return (self._run(stream, until=event),)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Error]:
        error = self._begin("cudaStreamBeginCapture")
        if error:
            return (error,)
        if stream not in self.streams or self.streams[stream].captured is not None:
            return (HANDLE,)
        self.streams[stream].captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, int]:
        error = self._begin("cudaStreamEndCapture")
        work = self.streams[stream].captured if stream in self.streams else None
        if stream in self.streams:
            self.streams[stream].captured = None
        if error or work is None:
            return error or Error.cudaErrorStreamCaptureInvalidated, 0
        handle = self._handle()
        self.graphs[handle] = work
        return OK, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Error, int]:
        error = self._begin("cudaGraphInstantiate")
        if error or graph not in self.graphs:
            return error or HANDLE, 0
        handle = self._handle()
        self.executables[handle] = self.graphs[graph]
        return OK, handle

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Error]:
        error = self._begin("cudaGraphLaunch")
        if error or graphExec not in self.executables:
            return (error or HANDLE,)
        for work in self.executables[graphExec]:
            self.enqueue(stream, work)
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Error]:
        error = self._begin("cudaGraphExecDestroy")
        return (error if error else (OK if self.executables.pop(graphExec, None) is not None else HANDLE),)

    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        error = self._begin("cudaGraphDestroy")
        return (error if error else (OK if self.graphs.pop(graph, None) is not None else HANDLE),)


def _host(address: int, size: int) -> NDArray[np.uint8]:
    memory: Any = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory)
