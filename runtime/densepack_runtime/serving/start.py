"""A bundle behind a port, in this process or in several.

serve(Path("bundle"), ServerOptions(port=8000), judge, tell=print)
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from densepack_runtime.bundle.places import locate_bundle
from densepack_runtime.errors import InputError
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Exchange, Judge, Reload
from densepack_runtime.serving.server import LINE, refuse_broken, run, service_of
from densepack_runtime.serving.tls import Certificate
from densepack_runtime.serving.workers import Workers

# Read by prometheus_client when a process imports it: there it counts for all of them.
_SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
Tell = Callable[[str], None]


def serve(name: str | Path, options: ServerOptions, judge: Judge, tell: Tell) -> None:
    """Serve the bundle of that name (see Bundle.open) until a signal; SIGHUP has it opened anew (`reload`).

    Raises InputError for what cannot be listened on, what opening the bundle raises, and BackendError where it cannot
    be run any more.
    """
    certificate = Certificate.read(options.tls_cert, options.tls_key)
    for tokens in (options.token_file, options.reload_token_file):
        Bearers.read(tokens)
    with listening(options) as listener:
        if options.workers > 1:
            _serve_with_workers(name, options, judge, listener, tell)
        else:
            _serve_here(name, options, judge, listener, certificate, tell)
    tell("ended: everything that was taken is answered")


def _serve_here(
    name: str | Path,
    options: ServerOptions,
    judge: Judge,
    listener: socket.socket,
    certificate: Certificate | None,
    tell: Tell,
) -> None:
    metrics = Metrics()
    with _reload_signal() as asked:
        model = Model.open(locate_bundle(name).resolve(), options, metrics, lambda error: service.give_up(error))
        service = service_of(model, metrics, options)
        service.reload_asked = asked
        service.reload = Reload(name, options, [Exchange(service, options)], judge, metrics.reloaded)
        address = address_of(options, listener)
        tell(f"listening on {address}, warming {len(model.shapes)} shapes")
        try:
            asyncio.run(run(service, listener, lambda: tell(f"ready: {address}"), certificate))
        finally:
            service.model.close()
        refuse_broken(service)


def _serve_with_workers(
    name: str | Path, options: ServerOptions, judge: Judge, listener: socket.socket, tell: Tell
) -> None:
    address = address_of(options, listener)
    tell(f"listening on {address}, starting {options.workers} workers")
    with tempfile.TemporaryDirectory(prefix="densepack-") as counts:
        os.environ[_SHARED_COUNTS] = counts
        try:
            asyncio.run(Workers(name, options, judge, listener, Path(counts)).run(lambda: tell(f"ready: {address}")))
        finally:
            del os.environ[_SHARED_COUNTS]


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
def listening(options: ServerOptions) -> Iterator[socket.socket]:
    """A socket where the options say. Raises InputError, also for an address that others reach and nothing secures."""
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"the host {options.host} is not known here: {error}") from error
    if not (options.token_file or options.open_to_all or ip_address(address[0]).is_loopback):
        raise InputError(
            f"{options.host} can be reached from elsewhere, and anybody could ask: name --token-file, or allow it with "
            "--open-to-all"
        )
    try:
        listener = socket.create_server(address[:2], family=family, backlog=LINE)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise InputError(f"{options.host}:{options.port} cannot be listened on: {why}") from error
    with listener:
        yield listener


def address_of(options: ServerOptions, listener: socket.socket) -> str:
    """What clients call the socket."""
    host, port = listener.getsockname()[:2]
    scheme = "http" if options.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
