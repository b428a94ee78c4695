"""A bundle behind a port: opened, warmed, served until a signal, and then ended without losing a request.

    serve(Path("bundle"), ServerOptions(port=8000), tell=print)

At SIGTERM or SIGINT the server is not ready any more, but goes on answering for `GRACE_S`, and tells every connection
to close; then it takes no more, and ends when all that it took is answered. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn

from densepack_runtime.backends import AskedPrecision, Choice, cache_of, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.versions import package_versions
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.batcher import MOST_TOKENS, Batcher
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.grid import Grid, warm
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.tls import Certificate
from densepack_runtime.sessions.host_record import HostRecord
from densepack_runtime.sessions.options import SessionOptions

GRACE_S = 1.0
# Between the last connection that is taken and the end of idle ones: who has just connected gets to ask.
_SETTLE_S = 0.2


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where and how to serve. `most_tokens` bounds what waits; `open_to_all` allows that anybody may ask."""

    host: str = "127.0.0.1"
    port: int = 8000
    backend: str = "auto"
    precision: AskedPrecision | None = "fastest"
    session: SessionOptions = field(default_factory=SessionOptions)
    strict: bool = False
    most_tokens: int = MOST_TOKENS
    timeout_s: float = 30.0
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    open_to_all: bool = False


def serve(bundle: Path, options: ServerOptions, tell: Callable[[str], None]) -> None:
    """Serve a bundle until a signal. Raises InputError for what cannot be listened on, and what opening it raises."""
    bearers = None if options.token_file is None else Bearers.read(options.token_file)
    certificate = Certificate.read(options.tls_cert, options.tls_key)
    opened = Bundle.open(bundle, strict=options.strict)
    choice = choose_backend(opened, options.backend, options.precision, cache=options.session.cache)
    facts = facts_of(opened, choice, options.session.cache)
    grid = Grid.of(choice.batching, opened.manifest.max_length)
    metrics = Metrics(waiting_tokens=lambda: batcher.tokens, waiting_questions=lambda: batcher.questions)
    with (
        listening(options, secured=bearers is not None) as listener,
        QuestionAnswerer.of(opened, choice, options.session) as answerer,
        Batcher(answerer, grid, most_tokens=options.most_tokens, ran=metrics.batch) as batcher,
    ):
        service = Service(batcher, answerer, metrics, facts["name"], facts, options.timeout_s, bearers)
        shapes = grid.shapes() if choice.batching.few_shapes else [(1, grid.longest)]
        asyncio.run(run(service, listener, shapes, tell, certificate))


def facts_of(bundle: Bundle, choice: Choice, cache: Path | None) -> dict[str, Any]:
    """What a client may know: the model, what runs it, and what was proven of it when it was built and on this host."""
    manifest = bundle.manifest
    record = HostRecord.load(cache or cache_of(bundle), bundle.sha256, Host.here())
    proofs = record.proofs if record else ()
    proof = next((one for one in proofs if (one.backend, one.precision) == (choice.backend, choice.precision)), None)
    return {
        "name": manifest.model.name,
        "sha256": bundle.sha256,
        **manifest.model.derived,
        "max_length": manifest.max_length,
        "doc_stride": manifest.doc_stride,
        "parity": data_from_record(manifest.parity),
        "backend": choice.backend,
        "precision": choice.precision,
        "proof": None if proof is None else data_from_record(proof),
        "densepack": package_versions()["densepack"],
        # Which heads and units are left of the model are some 100 KB, and nothing that a client decides by.
        "manifest": {name: told for name, told in data_from_record(manifest).items() if name != "model"},
    }


@contextmanager
def listening(options: ServerOptions, *, secured: bool) -> Iterator[socket.socket]:
    """A socket where the options say. Raises InputError, also for an address that others reach and nothing secures."""
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

    def handle_exit(self, *_: object) -> None:
        if self._service.ending:
            self.should_exit = self.force_exit = True
        self._service.ending = True

    async def on_tick(self, counter: int) -> bool:
        if self._service.ending:
            self._last_call = min(self._last_call, time.monotonic() + GRACE_S)
        return await super().on_tick(counter) or time.monotonic() >= self._last_call

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLE_S)
        await super().shutdown(sockets)


async def run(
    service: Service,
    listener: socket.socket,
    shapes: Sequence[tuple[int, int]],
    tell: Callable[[str], None],
    certificate: Certificate | None = None,
) -> None:
    """Serve on a socket, ready once batches of these shapes were run, until a signal."""
    server = _Server(service, certificate)
    serving = asyncio.create_task(server.serve([listener]))
    host, port = listener.getsockname()[:2]
    scheme = "https" if certificate else "http"
    address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    try:
        tell(f"listening on {address}, warming {len(shapes)} shapes")
        await asyncio.to_thread(warm, service.answerer.session, (shape for shape in shapes if not service.ending))
        service.warmed = True
        if service.ready:
            tell(f"ready: {address}")
    finally:
        server.should_exit = server.should_exit or not service.warmed
        await serving
    tell("ended: everything that was taken is answered")
