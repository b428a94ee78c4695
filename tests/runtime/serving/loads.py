"""`make load-test`: `densepack serve` under load beside simpler servers, and as it is expected to be.

    python -m tests.runtime.serving.loads BUNDLE [--requests 2000] [--rounds 3] [--backend openvino --precision bf16]

Many connections first: batches of one, first in first out with the same budget, and the server as it is, in turns. Then
the last at rates from half of what it could to twice that, each with all the requests again. Exit 1 where an answer was
lost, or another than the library's. With `--times FILE` (of `densepack plan`) its simulation stands beside each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_table
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.sizing.batch_times import TIMES, KeptTimes
from densepack_runtime.serving.sizing.simulation import Simulated, Simulation
from tests.runtime.serving.load import BAD, CONNECTIONS, Outcome, Sent, Served, load, mixed, served

AS_IT_IS = "as it is"
SERVERS = {
    "batches of one": "import densepack_runtime.serving.grid as grid; grid.FEW_ROWS, grid.MAX_BATCH = (1,), 1",
    "first in, first out": "from tests.runtime.serving.loads import serve_in_order; serve_in_order()",
    AS_IT_IS: "",
}
SHARES = (0.5, 0.8, 1.0, 1.5, 2.0)


def serve_in_order() -> None:
    """Make this process a server whose batches are the first in line, as many as the budget allows."""

    def next_batch(self: Grid, lengths: Sequence[int]) -> tuple[list[int], int]:
        fitting = [
            rows
            for rows in self.rows
            if rows <= len(lengths) and rows <= self.rows_at(self.length(max(lengths[:rows])))
        ]
        return list(range(fitting[-1])), self.length(max(lengths[: fitting[-1]]))

    Grid.next_batch = next_batch  # type: ignore[method-assign]


async def load_at(port: int, requests: Sequence[Sent], rate: float, seed: int = 0) -> Outcome:
    """Send requests as they come, `rate` a second on average, whatever became of those before."""
    chance, start, due = random.Random(seed), time.perf_counter(), 0.0
    sending = []
    for sent in requests:
        due += chance.expovariate(rate)
        await asyncio.sleep(start + due - time.perf_counter())
        sending.append(asyncio.create_task(load(port, [sent], connections=1)))
    return Outcome.of(await asyncio.gather(*sending), time.perf_counter() - start)


def resident_mib(server: Served) -> float:
    """Memory of a server's process."""
    [line] = [one for one in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmRSS" in one]
    return int(line.split()[1]) / 1024


def simulation_of(asked: argparse.Namespace) -> Simulation | None:
    if asked.times is None:
        return None
    bundle = Bundle.open(asked.bundle)
    batching = choose_backend(bundle, asked.backend, asked.precision).batching
    return Simulation(Grid.of(batching, bundle.manifest.max_length), TIMES.read(asked.times, KeptTimes).times)


def lengths_of(requests: Sequence[Sent], answerer: QuestionAnswerer) -> list[list[int]]:
    """Tokens of the windows of those that can be answered."""
    bodies = [json.loads(sent.body) for sent in requests]
    windows = answerer.windower.windows_or_errors((body["question"], body["context"]) for body in bodies)
    return [[window.length for window in ours] for ours in windows if not isinstance(ours, InputError)]


def row(name: str, outcome: Outcome, simulated: Simulated | None) -> tuple[str, ...]:
    told = (name, f"{outcome.answered / outcome.whole_s:.1f}", f"{outcome.p50_ms:.0f}", f"{outcome.p99_ms:.0f}")
    return (*told, str(outcome.statuses), *(() if simulated is None else _expected(simulated)))


def _expected(simulated: Simulated) -> tuple[str, ...]:
    return f"{simulated.rate:.1f}", f"{1000 * simulated.p50_s:.0f}", f"{1000 * simulated.p99_s:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--times", type=Path)
    asked = parser.parse_args()
    with QuestionAnswerer.open(asked.bundle, backend=asked.backend, precision=asked.precision) as answerer:
        start = time.perf_counter()
        requests = mixed(answerer, asked.requests)
        library = len(requests) / (time.perf_counter() - start)
        lengths = lengths_of(requests, answerer)
    simulation = simulation_of(asked)
    columns = ("", "questions/s", "p50 ms", "p99 ms", "statuses", *(("expected", "p50", "p99") if simulation else ()))
    options = ("--backend", asked.backend, "--precision", asked.precision, "--timeout-s", "600")
    rounds: dict[str, list[Outcome]] = {name: [] for name in SERVERS}
    with ExitStack() as servers:
        running = {
            name: servers.enter_context(served(asked.bundle, *options, first=first)) for name, first in SERVERS.items()
        }
        ours, memory = running[AS_IT_IS], []
        for _ in range(asked.rounds):
            for name, server in running.items():
                rounds[name].append(asyncio.run(load(server.port, requests)))
            memory.append(resident_mib(ours))
        most = statistics.median(one.answered / one.whole_s for one in rounds[AS_IT_IS])
        at_rates = {share: asyncio.run(load_at(ours.port, requests, share * most)) for share in SHARES}
        memory.append(resident_mib(ours))
    expected = simulation.over_connections(lengths, CONNECTIONS) if simulation else None
    print_table(
        f"{len(requests)} requests over {CONNECTIONS} connections, {asked.rounds} rounds; answer_many {library:.1f}/s",
        columns,
        [row(name, _median(all_of), expected if name == AS_IT_IS else None) for name, all_of in rounds.items()],
    )
    print_table(
        "as they come",
        columns,
        [
            row(f"{share:g}x", one, simulation.at_rate(lengths, (1 - BAD) * share * most) if simulation else None)
            for share, one in at_rates.items()
        ],
    )
    print(f"memory after each round, and in the end: {', '.join(f'{one:.0f}' for one in memory)} MiB")
    every = [*(one for all_of in rounds.values() for one in all_of), *at_rates.values()]
    wrong = [text for one in every for text in one.wrong]
    print(f"{sum(one.lost for one in every)} lost, {len(wrong)} different", *wrong[:3], sep="\n")
    return int(bool(wrong) or any(one.lost for one in every))


def _median(outcomes: Sequence[Outcome]) -> Outcome:
    return sorted(outcomes, key=lambda one: one.whole_s)[len(outcomes) // 2]


if __name__ == "__main__":
    sys.exit(main())
