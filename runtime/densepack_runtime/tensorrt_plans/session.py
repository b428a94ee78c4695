"""A TensorRT plan as a Session: TensorRT and cuda-python, no PyTorch.

    session = TensorRTSession.open(bundle.path(entry.plan), entry)
    logits = session.run(batch)

The plan's own record is compared with this host before TensorRT sees the plan, and with the engine afterwards. Batches
are padded to buckets, so that a CUDA graph is replayed for nearly all of them; `run_many` keeps two lanes busy, so that
copying one batch overlaps with computing the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from densepack_runtime.errors import BackendError, DensepackError, InputError
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.compile_cache import KeptFile
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, SessionBase
from densepack_runtime.sessions.shapes import bucket
from densepack_runtime.tensorrt_plans.choice import misfit
from densepack_runtime.tensorrt_plans.cuda_device import CudaDevice
from densepack_runtime.tensorrt_plans.debug_tensors import DebugCallback, make_debug_listener
from densepack_runtime.tensorrt_plans.engine import check_engine, deserialize, rtx_config, save_rtx_cache
from densepack_runtime.tensorrt_plans.lane import Lane
from densepack_runtime.tensorrt_plans.log import captured_log
from densepack_runtime.tensorrt_plans.module import is_rtx, load_tensorrt, override
from densepack_runtime.tensorrt_plans.record import PlanEntry

if TYPE_CHECKING:
    import tensorrt as trt_types
    import tensorrt_rtx as rtx_types

Result = TypeVar("Result")
# Two batches under way hide the copies of one behind the computing of the other; more lanes only take memory.
LANES = 2


class TensorRTSession(SessionBase):
    """Runs one plan. Thread-safe: every batch takes a lane of its own, and waits while all are busy.

    Batches with more rows than the plan's largest are run in parts. The kernels that TensorRT for RTX compiled are kept
    in a file of the cache, named after the plan; `on_debug` gets the debug tensors of a plan that has some. Raises
    BackendError for a plan that cannot run here, MissingDependencyError without TensorRT or cuda-python.
    """

    def __init__(
        self,
        plan: Path,
        entry: PlanEntry,
        *,
        options: SessionOptions = DEFAULT,
        lanes: int = LANES,
        on_debug: DebugCallback | None = None,
    ) -> None:
        self.entry = entry
        self._trt = load_tensorrt(entry.flavour)
        self._cuda_graphs = options.cuda_graphs
        name = f"{entry.plan_sha256[:16]}.kernels"
        self._runtime_cache = KeptFile(options.cache / "tensorrt-rtx" / name) if options.cache else None
        self._most_lanes = max(1, lanes)
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []
        self._changed = threading.Condition()
        self._closed = False
        # Narrow profiles first: a plan may have them for batch 1.
        self._order = sorted(range(len(entry.profiles)), key=lambda index: entry.profiles[index].max[::-1])
        self._cuda = CudaDevice(0)
        self._listener = None if on_debug is None else make_debug_listener(self._trt, self._cuda, on_debug)
        try:
            self._runtime, self._engine, self._config = self._open(plan)
        except BaseException:
            self._cuda.close()
            raise

    @classmethod
    def open(
        cls,
        plan: Path,
        entry: PlanEntry,
        *,
        options: SessionOptions = DEFAULT,
        host: Host | None = None,
        bundle: object = "BUNDLE",
    ) -> Self:
        """Check that the plan fits the host, then open it. Raises BackendError that names both sides."""
        reason = misfit(entry, host or Host.here(), bundle)
        if reason is not None:
            raise BackendError(f"{entry.plan} cannot run here: {reason}")
        return cls(plan, entry, options=options)

    @override
    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises InputError for one that no profile holds, BackendError when the GPU fails."""
        [logits] = self.run_many([batch])
        return logits

    @override
    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order; the next batch is queued before the result of the last is waited for."""
        pieces_of_batch: deque[int] = deque()

        def pieces() -> Iterator[Batch]:
            for batch in batches:
                cut = _cut(batch, self.entry.max_batch)
                pieces_of_batch.append(len(cut))
                yield from cut

        parts: list[Logits] = []
        with closing(self._overlapped(pieces())) as results:
            for logits in results:
                parts.append(logits)
                if len(parts) == pieces_of_batch[0]:
                    pieces_of_batch.popleft()
                    yield _joined(parts)
                    parts = []

    @override
    def close(self) -> None:
        """Free everything on the GPU, also after an error there; calls of other threads fail from then on."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.close()
        if self._config is not None and self._runtime_cache is not None and not self._cuda.broken:
            save_rtx_cache(self._config, self._runtime_cache)
        del self._config, self._engine, self._runtime
        self._cuda.close()

    def _open(self, plan: Path) -> tuple[trt_types.Runtime, trt_types.ICudaEngine, rtx_types.IRuntimeConfig | None]:
        """Runtime, engine and, for TensorRT for RTX, the runtime configuration."""
        with captured_log(self._trt) as (logger, log):
            runtime = self._trt.Runtime(logger)
            engine = deserialize(self._trt, runtime, plan, self.entry, log)
            check_engine(self._trt, engine, self.entry)
            config = None
            if is_rtx(self._trt):
                config = rtx_config(self._trt, engine, self._runtime_cache, cuda_graphs=self._cuda_graphs)
        return runtime, engine, config

    def _overlapped(self, pieces: Iterable[Batch]) -> Generator[Logits]:
        ahead: Lane | None = None
        try:
            for piece in pieces:
                profile, shape = self._place(piece.shape)
                lane = self._take(wait=ahead is None)
                if lane is None and ahead is not None:  # the other lanes are busy elsewhere: give ours back first
                    own, ahead = ahead, None
                    yield self._finish(own)
                    lane = self._take(wait=True)
                assert lane is not None  # waiting ends with a lane or an error
                self._submit(lane, piece, profile, shape)
                last, ahead = ahead, lane
                if last is not None:
                    yield self._finish(last)
            if ahead is not None:
                last, ahead = ahead, None
                yield self._finish(last)
        finally:
            if ahead is not None:  # an error, or nobody wants the rest
                ahead.recover()
                self._give_back(ahead)

    def _place(self, real: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """The profile for a batch and the shape to pad it to. Raises InputError when no profile holds it."""
        for index in self._order:
            profile = self.entry.profiles[index]
            shape = bucket(real, profile.max) if self._cuda_graphs else real
            if profile.holds(shape):
                return index, shape
        told = ", ".join(map(str, self.entry.profiles))
        raise InputError(
            f"a batch of {real[0]}x{real[1]} fits none of the plan's profiles ({told}): build it with --lengths and "
            "--max-batch that do"
        )

    def _take(self, *, wait: bool) -> Lane | None:
        """A free lane, or a new one while there are few; None when all are busy and nobody wants to wait."""
        with self._changed:
            while True:
                if self._closed:
                    raise BackendError("the TensorRT session is closed")
                if self._free:
                    return self._free.pop()
                if len(self._lanes) < self._most_lanes:
                    lane = Lane(
                        self._cuda,
                        self._engine,
                        self.entry.profiles,
                        runtime_config=self._config,
                        # TensorRT for RTX captures graphs itself.
                        cuda_graphs=self._cuda_graphs and self.entry.flavour == "tensorrt",
                        debug_listener=self._listener,
                    )
                    self._lanes.append(lane)
                    return lane
                if not wait:
                    return None
                self._changed.wait()

    def _give_back(self, lane: Lane) -> None:
        with self._changed:
            self._free.append(lane)
            self._changed.notify()

    def _submit(self, lane: Lane, piece: Batch, profile: int, shape: tuple[int, int]) -> None:
        try:
            self._guarded(lambda: lane.submit(piece, profile, shape), piece.shape)
        except BaseException:
            lane.recover()
            self._give_back(lane)
            raise

    def _finish(self, lane: Lane) -> Logits:
        try:
            return self._guarded(lane.result, None)
        except BaseException:
            lane.recover()
            raise
        finally:
            self._give_back(lane)

    def _guarded(self, call: Callable[[], Result], shape: tuple[int, int] | None) -> Result:
        """Call; errors of TensorRT's own kind become BackendError, and all quote what TensorRT logged."""
        with captured_log(self._trt) as (_, log):
            try:
                return call()
            except DensepackError as error:
                if not log.errors:
                    raise
                raise type(error)(f"{error} (TensorRT: {log.told()})") from error
            except (RuntimeError, TypeError, ValueError) as error:  # what pybind11 makes of C++ exceptions
                what = f"a batch of {shape[0]}x{shape[1]}" if shape else "a batch"
                raise BackendError(f"TensorRT failed on {what}: {error} ({log.told()})") from error


def _cut(batch: Batch, rows: int) -> list[Batch]:
    """The batch in pieces of at most so many rows."""
    if batch.shape[0] <= rows:
        return [batch]
    pieces = (slice(first, first + rows) for first in range(0, batch.shape[0], rows))
    return [
        Batch(batch.input_ids[at], batch.attention_mask[at], batch.token_type_ids[at], batch.windows[at])
        for at in pieces
    ]


def _joined(parts: list[Logits]) -> Logits:
    if len(parts) == 1:
        return parts[0]
    return Logits(np.concatenate([part.start for part in parts]), np.concatenate([part.end for part in parts]))
