"""A server in this process, on a port of its own, and a client that keeps its connection."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.application import Service
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.server import run
from densepack_runtime.serving.tls import Certificate
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits, Session

WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server and its parts."""

    service: Service
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def __call__(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Got:
        """Ask it on a connection of its own; what is not bytes is sent as JSON."""
        connection = self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Got(response.status, told, response.read())
        finally:
            connection.close()

    def wait(self, reached: Callable[[Service], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not reached(self.service):
            assert time.monotonic() < end
            time.sleep(0.002)


class Held:
    """A session whose batches, but for the warm-up's, wait until `go`."""

    def __init__(self) -> None:
        self.go, self.reached = threading.Event(), threading.Event()
        self.session = FakeSession(self._run)

    def _run(self, batch: Batch) -> Logits:
        if batch.windows:
            self.reached.set()
            assert self.go.wait(WAIT_S)
        return made_up_logits(batch)

    @property
    def windows(self) -> int:
        return sum(len(batch.windows) for batch in self.session.batches)


@contextmanager
def running(
    session: Session,
    windower: Windower,
    *,
    bearers: Bearers | None = None,
    timeout_s: float = WAIT_S,
    most_tokens: int = 200_000,
    ready: bool = True,
    certificate: Certificate | None = None,
) -> Iterator[Running]:
    """Serve a session until the block ends."""
    metrics = Metrics()
    service = Service(model_of(session, windower, metrics, most_tokens), metrics, timeout_s, bearers)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(run(service, listener, lambda: None, certificate)))
    one = Running(service, port)
    thread.start()
    try:
        if ready:
            one.wait(lambda service: service.warmed)
        yield one
    finally:
        service.ending = True
        thread.join(WAIT_S)
        service.model.close()
        assert not thread.is_alive()


def model_of(
    session: Session, windower: Windower, metrics: Metrics, most_tokens: int = 200_000, name: str = "fake"
) -> Model:
    """A session as what is served."""
    answerer = QuestionAnswerer(session, windower)
    grid = Grid.of(Batching(), windower.max_length)
    batcher = Batcher(answerer, grid, most_tokens=most_tokens, ran=metrics.batch, waits=metrics.waits)
    facts = {"name": name, "sha256": name, "backend": "fake", "precision": "fp32"}
    return Model(answerer, batcher, name, facts, session, [(1, 8)])
