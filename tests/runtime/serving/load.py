"""Many clients at once, and every answer compared with the library's.

with served(bundle) as server:
    outcome = asyncio.run(load(server.port, requests))
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path
from densepack_runtime.serving.sizing.loopback import ask_on

# Scores are sums in another order when rows stand in other batches; places and texts are the same.
SCORE_TOLERANCE = 1e-3
CONNECTIONS = 64
BAD = 0.05
REST_S = 0.05
START_S = 300.0
_MAIN = "from densepack_export.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Sent:
    """A request body with the status and the answer that it has to get."""

    body: bytes
    status: int
    answer: dict[str, Any] | None = None

    def fits(self, status: int, answer: dict[str, Any]) -> bool:
        if status != self.status or self.answer is None:
            return status == self.status
        close = abs(answer.pop("score") - self.answer["score"]) <= SCORE_TOLERANCE
        return close and answer == {name: self.answer[name] for name in ("id", "start", "end", "answer")}


@dataclass(frozen=True, slots=True)
class Either(Sent):
    """A request that one bundle may answer or another, but wholly one of them."""

    other: dict[str, Any] | None = None

    @classmethod
    def of(cls, one: Sent, other: Sent) -> Self:
        return cls(one.body, one.status, one.answer, other.answer)

    def fits(self, status: int, answer: dict[str, Any]) -> bool:
        wanted = (Sent(self.body, self.status, each) for each in (self.answer, self.other))
        return any(one.fits(status, dict(answer)) for one in wanted)


@dataclass(slots=True)
class Outcome:
    """What came of a load: seconds of each request that was answered, and what was wrong with the others.

    `refused` are those for which nobody listened any more, `lost` those that were taken and not answered, `retried`
    those that were sent again.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    retried: int = 0
    whole_s: float = 0.0

    @property
    def answered(self) -> int:
        return self.statuses.get(200, 0)

    @property
    def p50_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)

    @property
    def p99_ms(self) -> float:
        return 1000 * statistics.quantiles(self.seconds, n=100)[98]


def mixed(
    answerer: QuestionAnswerer, count: int, seed: int = 0, bad: float = BAD, squad: Path | None = None
) -> list[Sent]:
    """Short, usual and long questions of a SQuAD file, else of the sample (whose contexts are long), some of them bad,
    with the library's answers.
    """
    chance = random.Random(seed)
    questions = list(read_squad(squad or sample_squad_path()).questions)
    chance.shuffle(questions)
    pairs = []
    for question in islice(cycle(questions), count):
        [length] = chance.choices((100, 300, 10_000, 30_000), weights=(2, 2, 10, 1))
        context = (
            question.context if length < 30_000 else " ".join((question.context, chance.choice(questions).context))
        )
        pairs.append((question.question if chance.random() >= bad else " ", context[:length]))
    found = answerer.answer_many(pairs, on_error="yield")
    return [_sent(number, *pair, answer) for number, (pair, answer) in enumerate(zip(pairs, found, strict=True))]


def _sent(number: int, question: str, context: str, found: Any) -> Sent:
    body = json.dumps({"id": number, "question": question, "context": context}).encode()
    return Sent(body, 422) if isinstance(found, InputError) else Sent(body, 200, {"id": number, **found.as_dict()})


async def load(port: int, requests: Iterable[Sent], connections: int = CONNECTIONS, *, tries: int = 1) -> Outcome:
    """Send all requests over so many connections that are kept; one that is closed in time is opened again.

    A request that is refused, lost or to come again later is sent up to `tries` times, REST_S apart.
    """
    outcome, waiting = Outcome(), iter(requests)
    start = time.perf_counter()
    await asyncio.gather(*(_Client(port, outcome, tries).send_all(waiting) for _ in range(connections)))
    outcome.whole_s = time.perf_counter() - start
    return outcome


async def load_at(port: int, requests: Sequence[Sent], rate: float, seed: int = 0) -> Outcome:
    """Send requests as they come, `rate` a second on average, whatever became of those before.

    Each takes a connection over which nothing is under way, or a new one.
    """
    outcome, idle = Outcome(), list[_Client]()

    async def send(sent: Sent) -> None:
        client = idle.pop() if idle else _Client(port, outcome)
        await client.send(sent)
        idle.append(client)

    chance, start, due = random.Random(seed), time.perf_counter(), 0.0
    sending = []
    for sent in requests:
        due += chance.expovariate(rate)
        await asyncio.sleep(start + due - time.perf_counter())
        sending.append(asyncio.create_task(send(sent)))
    await asyncio.gather(*sending)
    outcome.whole_s = time.perf_counter() - start
    for client in idle:
        client.close()
    return outcome


@dataclass
class _Client:
    """One connection at a time, and what came of its requests."""

    port: int
    outcome: Outcome
    tries: int = 1
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send_all(self, waiting: Iterator[Sent]) -> None:
        for sent in waiting:
            await self.send(sent)
        self.close()

    async def send(self, sent: Sent) -> None:
        for left in reversed(range(self.tries)):
            if await self._send(sent, again=left > 0):
                break
            self.outcome.retried += 1
            await asyncio.sleep(REST_S)

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()
        self.streams = None

    async def _send(self, sent: Sent, *, again: bool) -> bool:
        """Whether that is what came of the request, where it may be sent `again`."""
        start = time.perf_counter()
        fresh = self.streams is None
        try:
            self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
            status, head, body = await ask_on(*self.streams, sent.body)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            if not again:
                if fresh and isinstance(error, ConnectionError):  # what the kernel took, and nobody after it
                    self.outcome.refused += 1
                else:
                    self.outcome.lost += 1
            return not again
        if b"connection: close" in head:
            self.close()
        if again and status in (429, 503):
            return False
        self.outcome.seconds.append(time.perf_counter() - start)
        self.outcome.statuses[status] = self.outcome.statuses.get(status, 0) + 1
        if not sent.fits(status, json.loads(body)):
            self.outcome.wrong.append(f"{status} {body[:200]!r}, not {sent.answer or sent.status}")
        return True


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def workers(self) -> list[int]:
        """The processes that answer for it; multiprocessing has another child, which is none."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextmanager
def served(bundle: Path, *options: str, first: str = "") -> Iterator[Served]:
    """`densepack serve` on a free port until the block ends; its process runs the code of `first` before it starts."""
    code = f"{first}\n{_MAIN}"
    command = [sys.executable, "-c", code, "serve", str(bundle), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = ""
            for line in process.stderr:
                told += line
                if found := re.search(r"^ready: http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise RuntimeError(f"the server did not start: {told}")
            yield Served(process, int(found[1]))
        finally:
            process.terminate()
            process.wait(START_S)
