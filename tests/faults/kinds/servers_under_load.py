"""Whatever happens to a server under load, or is done to it: nobody else's answer is lost, late for ever, or another's.

Beside every fault, four clients ask without a pause, and again where they were to come again later; each of their
answers has to be that of the one bundle or of the other. One process is tried, then two workers, and so on.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle, takewhile
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.sizing.loopback import ask_on
from tests.faults.kinds.kind import BROKEN, UNANSWERED, WRONG, kind
from tests.runtime.serving.bundles import another, damaged, relink, wrong
from tests.runtime.serving.load import Either, Sent, Served, load, mixed, served

BUNDLE = Path(__file__).parents[2] / "last_version" / "bundle"
OPTIONS = ("--backend", "onnxruntime", "--precision", "fp32", "--threads", "1", "--queue", "3000")
LONGEST_BODY = 2_000
FLOOD = 150
LIMIT_S = 60.0


class Patient(Either):
    """Where it is to come again later, it may be sent again; and need not, where nobody will be there any more."""

    def fits(self, status: int, answer: dict[str, Any]) -> bool:
        return status == 429 or super().fits(status, answer)


@dataclass
class Place:
    """A path to serve, the bundles that it may lead to, and requests with the answers of both good ones."""

    link: Path
    good: tuple[Path, Path]
    broken: tuple[Path, Path]
    requests: Sequence[Sent]

    @classmethod
    def made(cls, folder: Path) -> Place:
        good = (shutil.copytree(BUNDLE, folder / "one"), another(BUNDLE, folder / "another"))
        answers = []
        for bundle in good:
            with QuestionAnswerer.open(bundle, backend="onnxruntime", precision="fp32", threads=1) as answerer:
                answers.append(mixed(answerer, 200))
        requests = [Patient.of(*sent) for sent in zip(*answers, strict=True) if len(sent[0].body) < LONGEST_BODY]
        place = cls(folder / "current", good, (wrong(BUNDLE, folder / "w"), damaged(BUNDLE, folder / "d")), requests)
        relink(place.link, good[0])
        return place


@dataclass
class Trial:
    """A server under load, and what is done to it by chance."""

    server: Served
    place: Place
    rng: random.Random

    async def ask(self, sent: Sent, *, hang_up: bool = False) -> int:
        """The status of an answer on a connection of its own; 0 for one that is not waited for, -1 for a wrong one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            if hang_up:
                writer.write(b"POST /v1/answer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(sent.body))
                writer.write(sent.body[: self.rng.choice((10, None))])
                await asyncio.sleep(self.rng.uniform(0, 0.05))
                return 0
            status, _, body = await ask_on(reader, writer, sent.body)
            return status if sent.fits(status, json.loads(body)) else -1
        finally:
            writer.close()

    def get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=LIMIT_S) as response:
            return str(response.read().decode())

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not await asyncio.to_thread(reached):
                await asyncio.sleep(0.05)

    def any_request(self) -> Sent:
        return self.rng.choice(self.place.requests)


Fault = Callable[[Trial], Awaitable[bool]]
"""Does it, and says whether those it was done with got what they should."""


async def hanging_up(trial: Trial) -> bool:
    """A fifth of the clients."""
    asked = (trial.ask(trial.any_request(), hang_up=number % 5 == 0) for number in range(50))
    return set(await asyncio.gather(*asked)) <= {0, 200, 422, 429}


async def reading_slowly(trial: Trial) -> bool:
    """A hundred kilobytes of answers, a little at a time; one who reads at once gets the same."""
    question = {"question": "Who was Chopin?", "context": "Chopin was a composer and a pianist of Poland. " * 3}
    body = json.dumps([{**question, "n_best": 100}] * 20).encode()

    async def answer(pause_s: float) -> list[Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", trial.server.port, limit=2048)
        writer.write(b"POST /v1/answer HTTP/1.0\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while piece := await reader.read(8192):
            received += piece
            await asyncio.sleep(pause_s)
        writer.close()
        head, _, told = received.partition(b"\r\n\r\n")
        if b" 429 " in head:
            await asyncio.sleep(0.1)
            return await answer(pause_s)
        return [[best["start"], best["end"]] for one in json.loads(told) for best in one["answers"]]

    at_once, *slowly = await asyncio.gather(answer(0), *(answer(0.03) for _ in range(3)))
    return all(found == at_once for found in slowly)


async def flooding(trial: Trial) -> bool:
    """More than the queue holds, at once: some are to come again later."""
    statuses = await asyncio.gather(*(trial.ask(trial.any_request()) for _ in range(FLOOD)))
    return 429 in statuses and set(statuses) <= {200, 422, 429}


async def sending_too_much(trial: Trial) -> bool:
    statuses = [await trial.ask(Sent(b" " * (10 << 20), 413)) for _ in range(3)]
    return statuses == [413] * 3


async def reloading_a_good_bundle(trial: Trial) -> bool:
    before = json.loads(trial.get("/v1/model"))["name"]
    [other] = [bundle for bundle in trial.place.good if bundle.resolve() != trial.place.link.resolve()]
    relink(trial.place.link, other)
    trial.server.process.send_signal(signal.SIGHUP)
    await trial.until(lambda: json.loads(trial.get("/v1/model"))["name"] != before)
    return True


async def reloading_a_broken_bundle(trial: Trial) -> bool:
    served_now, told = trial.place.link.resolve(), 'densepack_reloads_total{outcome="refused"}'

    def refusals() -> float:
        return sum(float(line.split()[-1]) for line in trial.get("/metrics").splitlines() if line.startswith(told))

    before, name = refusals(), json.loads(trial.get("/v1/model"))["name"]
    relink(trial.place.link, trial.rng.choice(trial.place.broken))
    trial.server.process.send_signal(signal.SIGHUP)
    await trial.until(lambda: refusals() > before)
    relink(trial.place.link, served_now)
    return bool(json.loads(trial.get("/v1/model"))["name"] == name)


async def killing_a_worker(trial: Trial) -> bool:
    before = trial.server.workers()
    os.kill(trial.rng.choice(before), signal.SIGKILL)
    await trial.until(lambda: len(trial.server.workers()) == len(before) and trial.server.workers() != before)
    return True


async def ending_it(trial: Trial) -> bool:
    trial.server.process.terminate()
    return await asyncio.to_thread(trial.server.process.wait, LIMIT_S) == 0


# The last one is that which it does not survive.
FAULTS: dict[str, Fault] = {
    "a fifth hangs up": hanging_up,
    "slow readers": reading_slowly,
    "a flood": flooding,
    "bodies of 10 MB": sending_too_much,
    "a good bundle": reloading_a_good_bundle,
    "a broken bundle": reloading_a_broken_bundle,
    "a worker killed": killing_a_worker,
    "SIGTERM": ending_it,
}


@kind("servers under load", tries=150, quick=7)
def servers_under_load(seed: int, folder: Path) -> Iterator[str]:
    rng, place = random.Random(seed), Place.made(folder)
    for round_ in count():
        workers = 1 + round_ % 2
        with served(place.link, *OPTIONS, "--workers", str(workers)) as server:
            for name, fault in FAULTS.items():
                if workers > 1 or fault is not killing_a_worker:
                    ended = asyncio.run(_tried(fault, Trial(server, place, rng)))
                    yield ended if ended.startswith(BROKEN) else f"{name}: {ended}"


async def _tried(fault: Fault, trial: Trial) -> str:
    over = asyncio.Event()
    requests = takewhile(lambda _: not over.is_set(), cycle(trial.place.requests))
    again = 1 if fault is ending_it else 10_000
    loading = asyncio.create_task(load(trial.server.port, requests, connections=4, tries=again))
    await asyncio.sleep(0.2)
    try:
        well = await fault(trial)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be seen in the table
        return f"{UNANSWERED}: {fault.__name__}: {error!r}"
    finally:
        over.set()
    outcome = await loading
    if outcome.wrong or not well:
        return f"{WRONG}: {fault.__name__}: {outcome.wrong[:3]}"
    if outcome.lost or not outcome.statuses.get(200):
        return f"{UNANSWERED}: {fault.__name__}: {outcome.lost} of {outcome.statuses}"
    return "nothing lost"
