"""A bundle behind a port: opened, warmed, served until a signal, and then ended without losing a request.

    serve(Path("bundle"), ServerOptions(port=8000), judge, tell=print)

SIGHUP has it opened anew (`reload`). At SIGTERM or SIGINT the server is not ready any more, but goes on answering for
`GRACE_S`, and tells every connection to close; then it takes no more, and ends when all that it took is answered. A
second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from densepack_runtime.errors import BackendError, InputError, ReloadError
from densepack_runtime.host.console import one_line
from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Exchange, Judge, Reload
from densepack_runtime.serving.tls import Certificate

GRACE_S = 1.0
# Between the last connection that is taken and the end of idle ones: who has just connected gets to ask.
_SETTLE_S = 0.2


def serve(path: Path, options: ServerOptions, judge: Judge, tell: Callable[[str], None]) -> None:
    """Serve a bundle until a signal.

    Raises InputError for what cannot be listened on, what opening it raises, and BackendError where it cannot be run
    any more.
    """
    bearers, reload_bearers = Bearers.read(options.token_file), Bearers.read(options.reload_token_file)
    certificate = Certificate.read(options.tls_cert, options.tls_key)
    metrics = Metrics()
    with _listening(options, secured=bearers is not None) as listener, _reload_signal() as asked:
        model = Model.open(path.resolve(), options, metrics, lambda error: service.give_up(error))
        service = Service(model, metrics, options.timeout_s, bearers, reload_bearers=reload_bearers, reload_asked=asked)
        service.reload = Reload(path, options, [Exchange(service, options)], judge, metrics.reloaded)
        try:
            asyncio.run(run(service, listener, tell, certificate))
        finally:
            service.model.close()
        if service.failure is not None:
            raise BackendError(
                f"the session broke, was opened again, and broke again: {one_line(service.failure)}"
            ) from service.failure


@contextmanager
def _reload_signal() -> Iterator[threading.Event]:
    """What SIGHUP sets: from the start, when the reload has to wait for what it would replace."""
    asked = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _listening(options: ServerOptions, *, secured: bool) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"the host {options.host} is not known here: {error}") from error
    if not (secured or options.open_to_all or ip_address(address[0]).is_loopback):
        raise InputError(
            f"{options.host} can be reached from elsewhere, and anybody could ask: name --token-file, or allow it with "
            "--open-to-all"
        )
    try:
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise InputError(f"{options.host}:{options.port} cannot be listened on: {why}") from error
    with listener:
        yield listener


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
    service: Service, listener: socket.socket, tell: Callable[[str], None], certificate: Certificate | None = None
) -> None:
    """Serve on a socket, ready once the model is warm, until a signal."""
    server = _Server(service, certificate)
    serving = asyncio.create_task(server.serve([listener]))
    host, port = listener.getsockname()[:2]
    scheme = "https" if certificate else "http"
    address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    try:
        tell(f"listening on {address}, warming {len(service.model.shapes)} shapes")
        await asyncio.to_thread(service.model.warm, lambda: not service.ending)
        service.warmed = True
        if service.ready:
            tell(f"ready: {address}")
    finally:
        server.should_exit = server.should_exit or not service.warmed
        await serving
        for trial in multiprocessing.active_children():  # of a bundle that nobody needs to know of any more
            trial.kill()
    if service.failure is None:
        tell("ended: everything that was taken is answered")
