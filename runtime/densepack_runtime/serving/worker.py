"""One of several processes that answer at one port, as `workers` starts it.

It accepts nothing before its model is warm, since the others can answer meanwhile. The process that started it tells it
when to reload and when to end; where that one is gone, it ends, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densepack_runtime.errors import BackendError, DensepackError, ReloadError
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import one_line, run_command_line
from densepack_runtime.serving.application import Service
from densepack_runtime.serving.link import Link
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Exchange
from densepack_runtime.serving.server import refuse_broken, run, service_of
from densepack_runtime.serving.tls import Certificate


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is given. From `counts`, a folder, the metrics of all workers are summed."""

    number: int
    folder: Path
    options: ServerOptions
    counts: Path
    listener: socket.socket
    link: socket.socket


def work(task: Task) -> None:
    """The whole life of the process."""
    os.setsid()  # Ctrl-C is for the process that started this one, and tells it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keep_freed_memory()
    run_command_line(lambda: _run(task))


def _run(task: Task) -> None:
    if task.number:  # all would say the same of their bundle: the first one does
        logging.getLogger("densepack").setLevel(logging.WARNING)
        warnings.simplefilter("ignore")
    asyncio.run(_Worker(task).live())


class _Worker:
    """The model of this process, and what the one that started it may have done with it."""

    _exchange: Exchange
    _service: Service

    def __init__(self, task: Task) -> None:
        self._task, self._metrics = task, Metrics(task.counts)
        self._link = Link(
            prepare=self._prepare, swap=self._swap, drop=self._drop, reloaded=self._reloaded, end=self._end
        )

    async def live(self) -> None:
        """Serve until told to end. What is in the way of that is told, and exit code 1."""
        linked = asyncio.create_task(self._link.run(self._task.link))
        try:
            await self._open()
            linked.add_done_callback(lambda _: self._stop())
            certificate = Certificate.read(self._task.options.tls_cert, self._task.options.tls_key)
            await run(self._service, self._task.listener, self._tell_ready, certificate, shared=True)
            self._service.model.close()
            refuse_broken(self._service)
        except (DensepackError, OSError) as error:
            with suppress(BackendError):
                await self._link.call("failed", one_line(error))
            sys.exit(1)

    async def _open(self) -> None:
        options = self._task.options
        model = await asyncio.to_thread(Model.open, self._task.folder, options, self._metrics, self._give_up)
        await asyncio.to_thread(model.warm)
        self._service = service_of(model, self._metrics, options)
        self._service.warmed, self._service.reload = True, self._ask_for_reload
        self._exchange = Exchange(self._service, options)

    def _give_up(self, error: Exception) -> None:
        self._service.give_up(error)

    def _tell_ready(self) -> None:
        self._telling = asyncio.create_task(self._link.call("ready"))

    async def _ask_for_reload(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = await self._link.call("reload")
        except BackendError as error:
            raise ReloadError(str(error)) from error
        return told

    # --- what may be called over the link ----------------------------------------------------------------------------

    async def _prepare(self, folder: str) -> None:
        await self._exchange.prepare(Path(folder))

    async def _swap(self) -> dict[str, Any]:
        return await self._exchange.swap()

    async def _drop(self) -> None:
        await self._exchange.drop()

    async def _reloaded(self, outcome: str) -> None:
        self._metrics.reloaded(outcome)

    async def _end(self) -> None:
        self._stop()

    def _stop(self) -> None:
        self._service.ending = True
