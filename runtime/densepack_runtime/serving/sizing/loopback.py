"""A server in this process, asked over loopback: what it adds to the batches that it runs.

served = ask(answerer, grid, pairs, at_once=64)
served.whole_s, served.batches
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from densepack_runtime.errors import BackendError
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.application import Service
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.server import LINE, run
from densepack_runtime.sessions.lanes import lanes_in
from densepack_runtime.sessions.session import Batch

_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Served:
    """The batches' shapes and seconds; of each question, the seconds beside those that the model ran; and of all."""

    batches: list[tuple[tuple[int, int], float]]
    beside_s: list[float]
    whole_s: float


def ask(answerer: QuestionAnswerer, grid: Grid, pairs: Sequence[Pair], at_once: int) -> Served:
    """Ask a server around the answerer, over so many connections. Raises BackendError with what it answers else."""
    batches: list[tuple[tuple[int, int], float]] = []

    def ran(batch: Batch, seconds: float) -> None:
        batches.append((batch.shape, seconds))

    lanes = len(lanes_in(answerer.session))
    with Batcher(answerer, grid, lanes=lanes, ran=ran) as batcher:
        service = Service(Model(answerer, batcher, "", {}, answerer.session), Metrics(), warmed=True)
        with _serving(service) as port:
            start = time.perf_counter()
            beside = asyncio.run(_ask_all(port, iter(pairs), at_once))
            return Served(batches, beside, time.perf_counter() - start)


@contextmanager
def _serving(service: Service) -> Iterator[int]:
    """The port of a server that runs in a thread until the block ends."""
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=LINE) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(run(service, listener, ready.set)), daemon=True)
        thread.start()
        try:
            if not ready.wait(_START_S):
                raise BackendError(f"a server on loopback was not ready within {_START_S:g} s")
            yield port
        finally:
            service.ending = True
            thread.join()


async def _ask_all(port: int, pairs: Iterator[Pair], at_once: int) -> list[float]:
    seconds: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for pair in pairs:
            start = time.perf_counter()
            model_s = await _ask(reader, writer, pair)
            seconds.append(time.perf_counter() - start - model_s)
        writer.close()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return seconds


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: Pair) -> float:
    """How long the model ran for it."""
    body = json.dumps({"question": pair[0], "context": pair[1]}).encode()
    status, head, answer = await ask_on(reader, writer, body)
    if status != 200:
        raise BackendError(f"a question of the file is not answered: {answer.decode()}")
    [model_ms] = re.findall(rb"model;dur=([\d.]+)", head)
    return float(model_ms) / 1000


def request_of(body: bytes) -> bytes:
    """What goes over a connection that asks."""
    head = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
    return b"POST /v1/answer HTTP/1.1\r\n%b\r\n\r\n%b" % (head, body)


async def ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes, bytes]:
    """Ask over a connection that is kept: the status, the head of the response in small letters, and its body."""
    writer.write(request_of(body))
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    [length] = re.findall(rb"content-length: (\d+)", head)
    return int(head.split()[1]), head, await reader.readexactly(int(length))
