"""An hour of moderate load on `densepack serve`: nothing may be lost or wrong, and nothing may grow.

    python -m tests.runtime.serving.soak BUNDLE [--minutes 60] [--rate 5] [--out FILE]

Requests come by chance, each over a connection of its own; one in twenty is bad, and of one in twenty the client hangs
up. Every minute memory, file descriptors and threads of the server are written down. Exit 1 where an answer was lost or
another than the library's, or where the second half has more memory than the first by a twentieth, threads by a
quarter, or descriptors by a half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.sizing.loopback import request_of
from tests.peers.provenance import provenance
from tests.runtime.serving.load import Outcome, Sent, load, mixed, served
from tests.runtime.serving.loads import resident_mib

KIND = "densepack soak"
DIFFERENT = 500  # requests that differ; they come again and again
HANGS_UP = 0.05
# By how much the most of the second half may exceed that of the first. Each request that waits has a descriptor, and
# pools of threads make one when they first need it.
GROWS = {"mib": 1.05, "threads": 1.25, "descriptors": 1.5}
LEAST_MINUTES = 10


async def hang_up(port: int, sent: Sent) -> None:
    """Ask, and leave before the answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_of(sent.body))
    await writer.drain()
    writer.close()


class Soak:
    def __init__(self, server: Any, requests: list[Sent], rate: float) -> None:
        self._server, self._requests, self._rate = server, cycle(requests), rate
        self._chance = random.Random(0)
        self.minutes: list[dict[str, float]] = []
        self.outcomes: list[Outcome] = []
        self.hung_up = 0

    async def run(self, minutes: int) -> None:
        start, due, waiting = time.monotonic(), 0.0, set[asyncio.Task[Any]]()
        while due < 60 * minutes:
            due += self._chance.expovariate(self._rate)
            await asyncio.sleep(start + due - time.monotonic())
            task = asyncio.create_task(self._ask(next(self._requests)))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            if due >= 60 * (len(self.minutes) + 1):
                self._look()
        await asyncio.gather(*waiting)

    async def _ask(self, sent: Sent) -> None:
        if self._chance.random() < HANGS_UP:
            self.hung_up += 1
            await hang_up(self._server.port, sent)
        else:
            self.outcomes.append(await load(self._server.port, [sent], connections=1))

    def _look(self) -> None:
        """Write down what the server's process has."""
        process = Path(f"/proc/{self._server.process.pid}")
        seen = {
            "mib": resident_mib(self._server),
            "descriptors": len([*(process / "fd").iterdir()]),
            "threads": len([*(process / "task").iterdir()]),
            "answers": float(len(self.outcomes)),
        }
        self.minutes.append(seen)
        sys.stderr.write(f"{len(self.minutes)}: {seen}\n")


def grown(minutes: list[dict[str, float]]) -> list[str]:
    """What the second half has more of than the first, after a tenth to warm up."""
    warm = minutes[len(minutes) // 10 :]
    first, second = warm[: len(warm) // 2], warm[len(warm) // 2 :]
    most = {name: (max(one[name] for one in first), max(one[name] for one in second)) for name in GROWS}
    return [
        f"{name}: at most {before:.0f} in the first half, {after:.0f} in the second"
        for name, (before, after) in most.items()
        if after > GROWS[name] * before
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.minutes < LEAST_MINUTES:
        parser.error(f"{asked.minutes} minutes are too few to see something grow: {LEAST_MINUTES} at least")
    with QuestionAnswerer.open(asked.bundle, precision=asked.precision) as answerer:
        requests = mixed(answerer, DIFFERENT)
    with served(asked.bundle, "--precision", asked.precision) as server:
        soak = Soak(server, requests, asked.rate)
        asyncio.run(soak.run(asked.minutes))
    wrong = [text for one in soak.outcomes for text in one.wrong]
    lost = sum(one.lost + one.refused for one in soak.outcomes)
    grew = grown(soak.minutes)
    document = {
        "kind": KIND,
        "settings": {"minutes": asked.minutes, "rate": asked.rate, "precision": asked.precision},
        **provenance("densepack", "openvino", "onnxruntime"),
        "answered": sum(one.answered for one in soak.outcomes),
        "hung_up": soak.hung_up,
        "lost": lost,
        "wrong": len(wrong),
        "minutes": soak.minutes,
        "grew": grew,
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(
        f"{document['answered']} answered, {soak.hung_up} hung up, {lost} lost, {len(wrong)} wrong", *wrong[:3], *grew
    )
    return int(bool(wrong or lost or grew))


if __name__ == "__main__":
    sys.exit(main())
