"""The event loop of a server: it serves a socket until a signal, and ends without losing a request.

    asyncio.run(run(service, listener, ready))

At SIGTERM or SIGINT the server is not ready any more, but goes on answering for `GRACE_S`, and tells every connection
to close; then it takes no more, and ends when all that it took is answered. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import uvicorn

from densepack_runtime.errors import BackendError, ReloadError
from densepack_runtime.host.console import one_line
from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.tls import Certificate

GRACE_S = 1.0
LINE = 2048
# Longer than a process that waits for connections takes to wake up, and short for one that is opened.
REST_S = 0.001
# Between the last connection that is taken and the end of idle ones: who has just connected gets to ask.
_SETTLE_S = 0.2


class _Listener(socket.socket):
    """A socket that processes may share: who has accepted a connection leaves the next one to the others for a while.

    Its line stays as long as it is: asyncio is given one number for that and for how many it accepts in one go.
    """

    _rest_s = 0.0
    _rested = 0.0

    @classmethod
    def of(cls, listener: socket.socket, *, shared: bool) -> Self:
        """Takes the place of another socket object."""
        own = cls(fileno=listener.detach())
        own._rest_s = REST_S if shared else 0.0
        return own

    def listen(self, _backlog: int = 0, /) -> None:
        super().listen(LINE)

    def accept(self) -> tuple[socket.socket, Any]:
        if time.monotonic() < self._rested:
            raise BlockingIOError
        accepted = super().accept()
        self._rested = time.monotonic() + self._rest_s
        return accepted


class _Server(uvicorn.Server):
    """Ends as the module says."""

    def __init__(self, service: Service, certificate: Certificate | None) -> None:
        super().__init__(
            uvicorn.Config(
                application_of(service),
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                backlog=1,
                ssl_certfile=certificate.chain if certificate else None,
                ssl_keyfile=certificate.key if certificate else None,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=math.ceil(service.timeout_s) + 1,
            )
        )
        self._service, self._last_call = service, math.inf
        self._reloading: asyncio.Task[None] | None = None

    def handle_exit(self, *_: object) -> None:
        if self._service.ending:
            self.should_exit = self.force_exit = True
        self._service.ending = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.ending:
            self._last_call = min(self._last_call, time.monotonic() + GRACE_S)
        elif self._service.warmed and self._service.reload_asked.is_set():
            self._service.reload_asked.clear()
            self._reloading = asyncio.create_task(self._reload())
        return await super().on_tick(counter) or time.monotonic() >= self._last_call

    async def _reload(self) -> None:
        assert self._service.reload is not None
        with suppress(ReloadError):  # which it has told of
            await self._service.reload()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLE_S)
        await super().shutdown(sockets)


async def run(
    service: Service,
    listener: socket.socket,
    ready: Callable[[], None],
    certificate: Certificate | None = None,
    *,
    shared: bool = False,
) -> None:
    """Serve on a socket, which is closed then, until a signal; calls `ready` when it accepts and the model is warm.

    The socket may be `shared` with other processes.
    """
    server = _Server(service, certificate)
    serving = asyncio.create_task(server.serve([_Listener.of(listener, shared=shared)]))
    try:
        if not service.warmed:
            await asyncio.to_thread(service.model.warm, lambda: not service.ending)
        service.warmed = True
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        if service.ready:
            ready()
    finally:
        server.should_exit = server.should_exit or not service.warmed
        await serving
        end_trials()


def service_of(model: Model, metrics: Metrics, options: ServerOptions) -> Service:
    """A model with whatever else is asked of it. Raises InputError for tokens that cannot be used."""
    bearers, reload_bearers = Bearers.read(options.token_file), Bearers.read(options.reload_token_file)
    return Service(model, metrics, options.timeout_s, bearers, reload_bearers=reload_bearers)


def refuse_broken(service: Service) -> None:
    """Raise BackendError where a service has ended because its model cannot be run any more."""
    if service.failure is not None:
        raise BackendError(
            f"the session broke, was opened again, and broke again: {one_line(service.failure)}"
        ) from service.failure


def end_trials() -> None:
    """Of a bundle that was being proven nobody needs to know any more."""
    for trial in multiprocessing.active_children():
        trial.kill()
