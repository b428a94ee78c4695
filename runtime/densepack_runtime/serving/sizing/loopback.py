"""A server in this process, asked over loopback: what it adds to the batches that it runs.

served = ask(answerer, grid, pairs, at_once=64)
served.whole_s, served.batches
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import parse_headers
from io import BytesIO

from densepack_runtime.errors import BackendError
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.application import Service
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.server import LINE, run

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
    with Batcher(answerer, grid, ran=lambda batch, seconds: batches.append((batch.shape, seconds))) as batcher:
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
    writer.write(b"POST /v1/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    status, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    headers = parse_headers(BytesIO(rest))
    answer = await reader.readexactly(int(headers["content-length"]))
    if status.split()[1] != b"200":
        raise BackendError(f"a question of the file is not answered: {answer.decode()}")
    steps = dict(step.split(";dur=") for step in headers["server-timing"].split(", "))
    return float(steps["model"]) / 1000
