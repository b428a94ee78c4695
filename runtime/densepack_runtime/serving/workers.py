"""Several processes that answer at one port, and this one, which keeps them.

    asyncio.run(Workers(Path("bundle"), options, judge, listener, counts).run(ready))

All of them accept from one socket, which this process listens on: connections wait in one line, whoever is free takes
the next, and a worker that dies takes with it what it had accepted and nothing that still waits. (With a socket for
each, SO_REUSEPORT, the kernel deals connections out by chance, and those that wait at a worker die with it.)

A worker that ends is started again, later and later where that does not help. One that cannot start ends the whole with
its error, unless others serve already.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from densepack_runtime.bundle.places import locate_bundle
from densepack_runtime.errors import BackendError, ReloadError
from densepack_runtime.serving.link import Link
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Judge, Outcome, Reload
from densepack_runtime.serving.server import end_trials
from densepack_runtime.serving.worker import Task, work

# Between the end of a worker and its next start: so long at first, doubled each time, up to the longest.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
# One that has lived for so long was well: what ends it then is a new fault.
SOUND_S = 60.0
_SPAWN = multiprocessing.get_context("spawn")
_LOGGER = logging.getLogger("densepack")


class Workers:
    """Keeps workers until a signal."""

    def __init__(
        self, name: str | Path, options: ServerOptions, judge: Judge, listener: socket.socket, counts: Path
    ) -> None:
        self._listener, folder = listener, locate_bundle(name).resolve()
        tasks = [
            partial(Task, number, options=share, counts=counts, listener=listener)
            for number, share in enumerate(options.shares())
        ]
        self._workers = [_Worker(task, folder, self._reload_once_serving) for task in tasks]
        self._reload = Reload(name, options, self._workers, judge, self._reloaded)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._serving, self._ending = asyncio.Event(), asyncio.Event()
        self._failure: BackendError | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all of them and call `ready`; return when all have ended. Raises BackendError with what ended them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reload_quietly)
        keepers = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        self._do(self._tell_when_serving(ready))
        await asyncio.gather(*keepers)
        end_trials()
        if self._failure is not None:
            raise self._failure

    async def _tell_when_serving(self, ready: Callable[[], None]) -> None:
        await asyncio.gather(*(worker.ready.wait() for worker in self._workers))
        self._serving.set()
        ready()

    def _do(self, errand: Coroutine[Any, Any, None]) -> None:
        """Have it done, in a task that is not forgotten before it ends."""
        self._tasks.add(task := asyncio.create_task(errand))
        task.add_done_callback(self._tasks.discard)

    # --- from their start to their end -------------------------------------------------------------------------------

    async def _keep(self, worker: _Worker) -> None:
        """Start a worker again whenever it ends, until all of them are to end."""
        wait_s, loop = FIRST_WAIT_S, asyncio.get_running_loop()
        while not self._ending.is_set():
            started = loop.time()
            why, could_start = await worker.live()
            if self._ending.is_set():
                return
            if not could_start and not (self._serving.is_set() and any(one.ready.is_set() for one in self._workers)):
                self._failure = BackendError(why)
                self._end()
                return
            wait_s = FIRST_WAIT_S if loop.time() - started > SOUND_S else wait_s
            _LOGGER.error("%s ended, and is started again in %g s: %s", worker, wait_s, why)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)

    def _end(self) -> None:
        """At first let them answer what they have taken; the second time, end them at once."""
        for worker in self._workers:
            if self._ending.is_set():
                worker.kill()
            else:
                self._do(worker.end())
        self._ending.set()
        self._listener.close()  # theirs are open until they have answered those that wait

    # --- reload ------------------------------------------------------------------------------------------------------

    async def _reload_once_serving(self) -> dict[str, Any]:
        await self._serving.wait()
        return await self._reload()

    def _reload_quietly(self) -> None:
        async def reload() -> None:
            with suppress(ReloadError):  # which it has told of
                await self._reload_once_serving()

        self._do(reload())

    def _reloaded(self, outcome: Outcome) -> None:
        """One of them counts it for all."""
        counts = next((worker for worker in self._workers if worker.ready.is_set()), None)
        if counts is not None:
            self._do(counts.reloaded(outcome))


class _Worker:
    """One worker, as this process sees it: a target of reloads, wherever it is in its life."""

    def __init__(self, task: partial[Task], folder: Path, reload: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.ready = asyncio.Event()
        self._task, self._folder, self._reload = task, folder, reload
        self._process: SpawnProcess | None = None
        self._next, self._prepared = folder, False
        self._link, self._why = Link(), ""

    def __str__(self) -> str:
        return f"worker {self._task.args[0]}"

    async def live(self) -> tuple[str, bool]:
        """Start it. When it has ended: why, and whether it had become ready."""
        ours, theirs = socket.socketpair()
        self._link, self._why = Link(ready=self._is_ready, failed=self._failed, reload=self._reload), ""
        with theirs:
            task = self._task(folder=self._folder, link=theirs)
            self._process = process = _SPAWN.Process(target=work, args=(task,), daemon=True)
            process.start()
        await self._link.run(ours)
        await asyncio.to_thread(process.join)
        mark_process_dead(process.pid, str(task.counts))  # type: ignore[no-untyped-call]
        was_ready, self._prepared = self.ready.is_set(), False
        self.ready.clear()
        return self._why or f"exit code {process.exitcode}", was_ready

    async def end(self) -> None:
        """Let it answer what it has taken."""
        if self.ready.is_set():
            with suppress(BackendError):
                await self._link.call("end")
        elif self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def reloaded(self, outcome: Outcome) -> None:
        """Count a reload."""
        with suppress(BackendError):
            await self._link.call("reloaded", outcome)

    async def prepare(self, folder: Path) -> None:
        self._next, self._prepared = folder, self.ready.is_set()
        if self._prepared:
            await self._link.call("prepare", str(folder))

    async def swap(self) -> dict[str, Any] | None:
        """What does not serve yet, or not any more, serves the new bundle when it is started again."""
        self._folder = self._next
        if not self._prepared:
            if self._process is not None:
                self._process.terminate()
            return None
        with suppress(BackendError):
            told: dict[str, Any] = await self._link.call("swap")
            return told
        return None

    async def drop(self) -> None:
        if self._prepared:
            with suppress(BackendError):
                await self._link.call("drop")

    async def _is_ready(self) -> None:
        self.ready.set()

    async def _failed(self, why: str) -> None:
        self._why = why
