"""`make load-test`: `densepack serve` under load beside simpler servers, and as it is expected to be.

    python -m tests.runtime.serving.loads BUNDLE [--squad dev-v1.1.json] [--requests 2000] [--rounds 3]

Many connections first, in turns: one window at a time, batches of one in as many lanes as ours, first in first out with
the same budget, the server as it is, and the same with a worker for each core. Then the server as it is at rates from
half of what it could to twice that, each with all the requests again. Exit 1 where an answer was lost, or another than
the library's. With `--times FILE` (of `densepack plan`) its simulation stands beside each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_table
from densepack_runtime.host.cores import usable_cores
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import sample_squad_path
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.sizing.batch_times import TIMES, KeptTimes
from densepack_runtime.serving.sizing.simulation import Simulated, Simulation
from tests.peers.provenance import provenance
from tests.runtime.serving.load import BAD, CONNECTIONS, Outcome, Sent, Served, load, load_at, mixed, served

KIND = "densepack load test"
# In tokens: what waits when twice as much comes as can be answered.
LONG_QUEUE = "10000000"
AS_IT_IS = "as it is"
A_WORKER_EACH = "as it is, a worker for each core"
_ONES = "import densepack_runtime.serving.grid as grid; grid.FEW_ROWS, grid.MAX_BATCH = (1,), 1"
_IN_ORDER = "from tests.runtime.serving.loads import serve_in_order; serve_in_order()"
# What a server's process runs before it starts, and its options.
SERVERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "one window at a time": (_ONES, ("--lanes", "1")),
    "batches of one": (_ONES, ()),
    "first in, first out": (_IN_ORDER, ()),
    AS_IT_IS: ("", ()),
    A_WORKER_EACH: ("", ("--workers", str(usable_cores()))),
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


def resident_mib(server: Served) -> float:
    """Memory of a server's process."""
    [line] = [one for one in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmRSS" in one]
    return int(line.split()[1]) / 1024


def simulation_of(asked: argparse.Namespace) -> Simulation | None:
    if asked.times is None:
        return None
    bundle = Bundle.open(asked.bundle)
    batching = choose_backend(bundle, asked.backend, asked.precision).batching
    times = TIMES.read(asked.times, KeptTimes).times
    return Simulation(Grid.of(batching, bundle.manifest.max_length).measured(times.cost), times)


def lengths_of(requests: Sequence[Sent], answerer: QuestionAnswerer) -> list[list[int]]:
    """Tokens of the windows of those that can be answered."""
    windows = answerer.windower.windows_or_errors(pairs_of(requests))
    return [[window.length for window in ours] for ours in windows if not isinstance(ours, InputError)]


def library_rate(requests: Sequence[Sent], answerer: QuestionAnswerer) -> float:
    """Answers a second of `answer_many`, which has seen the same questions before."""
    start = time.perf_counter()
    answers = [one for one in answerer.answer_many(pairs_of(requests), on_error="yield") if isinstance(one, Answer)]
    return len(answers) / (time.perf_counter() - start)


def pairs_of(requests: Sequence[Sent]) -> list[tuple[str, str]]:
    bodies = (json.loads(sent.body) for sent in requests)
    return [(body["question"], body["context"]) for body in bodies]


def fact(name: str, outcome: Outcome, simulated: Simulated | None = None) -> dict[str, Any]:
    """One row of a table, and of the document."""
    told = {"name": name, "per_second": outcome.answered / outcome.whole_s, "p50_ms": outcome.p50_ms}
    told |= {"p99_ms": outcome.p99_ms, "statuses": outcome.statuses}
    if simulated is not None:
        told["expected"] = {
            "per_second": simulated.rate,
            "p50_ms": 1000 * simulated.p50_s,
            "p99_ms": 1000 * simulated.p99_s,
        }
    return told


class Trial:
    """The same requests for all servers, in turns, and then for ours as they come."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked, self._simulation = asked, simulation_of(asked)
        with QuestionAnswerer.open(asked.bundle, backend=asked.backend, precision=asked.precision) as answerer:
            self._requests = mixed(answerer, asked.requests, squad=asked.squad)
            self._lengths = lengths_of(self._requests, answerer)
            self.library = library_rate(self._requests, answerer)
        self.memory_mib: list[float] = []
        self.outcomes: list[Outcome] = []

    def run(self) -> dict[str, Any]:
        asked = self._asked
        options = (
            "--backend",
            asked.backend,
            "--precision",
            asked.precision,
            "--timeout-s",
            "600",
            "--queue",
            LONG_QUEUE,
        )
        with ExitStack() as opened:
            servers = {
                name: opened.enter_context(served(asked.bundle, *options, *own, first=first))
                for name, (first, own) in SERVERS.items()
            }
            rounds = [self._round(number, servers) for number in range(asked.rounds)]
            ours = [one for turn in rounds for one in turn if one["name"] == AS_IT_IS]
            most = statistics.median(one["per_second"] for one in ours)
            as_they_come = [self._at(share, share * most, servers[AS_IT_IS]) for share in asked.shares]
        return {
            "kind": KIND,
            "settings": {name: getattr(asked, name) for name in ("requests", "rounds", "backend", "precision")},
            "squad": (asked.squad or sample_squad_path()).name,
            "connections": CONNECTIONS,
            **provenance("densepack", "openvino", "onnxruntime"),
            "library_per_second": self.library,
            "runs": [one for turn in rounds for one in turn],
            "as_they_come": as_they_come,
            "memory_mib": self.memory_mib,
        }

    @cached_property
    def _expected(self) -> Simulated | None:
        """Of the server as it is, over many connections; the same in every round."""
        if self._simulation is None:
            return None
        return self._simulation.over_connections(self._lengths, CONNECTIONS)

    def _round(self, number: int, servers: Mapping[str, Served]) -> list[dict[str, Any]]:
        facts = []
        for name, server in servers.items():
            self.outcomes.append(asyncio.run(load(server.port, self._requests)))
            expected = self._expected if name == AS_IT_IS else None
            facts.append({"round": number, **fact(name, self.outcomes[-1], expected)})
            sys.stderr.write(f"{facts[-1]}\n")
        self.memory_mib.append(resident_mib(servers[AS_IT_IS]))
        return facts

    def _at(self, share: float, rate: float, server: Served) -> dict[str, Any]:
        self.outcomes.append(asyncio.run(load_at(server.port, self._requests, rate)))
        self.memory_mib.append(resident_mib(server))
        expected = None
        if self._simulation is not None:
            expected = self._simulation.at_rate(self._lengths, (1 - BAD) * rate)
        told = {"share": share, "rate": rate, **fact(f"{share:g}x", self.outcomes[-1], expected)}
        sys.stderr.write(f"{told}\n")
        return told


def show(document: dict[str, Any]) -> None:
    """Medians of the rounds, then each rate, as tables."""
    columns = ("", "questions/s", "p50 ms", "p99 ms", "statuses")
    middle = [median_round([one for one in document["runs"] if one["name"] == name]) for name in SERVERS]
    library = document["library_per_second"]
    print_table(f"over {CONNECTIONS} connections; answer_many {library:.1f}/s", columns, list(map(_row, middle)))
    print_table("as they come", columns, list(map(_row, document["as_they_come"])))
    print(f"memory after each: {', '.join(f'{one:.0f}' for one in document['memory_mib'])} MiB")


def median_round(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the rounds of one server, the one in the middle by speed."""
    return sorted(facts, key=lambda one: float(one["per_second"]))[len(facts) // 2]


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    expected = told.get("expected", {})

    def cell(name: str, digits: int) -> str:
        simulated = f" (expected {expected[name]:.{digits}f})" if expected else ""
        return f"{told[name]:.{digits}f}{simulated}"

    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(told["statuses"].items()))
    return told["name"], cell("per_second", 1), cell("p50_ms", 0), cell("p99_ms", 0), statuses


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--squad", type=Path, help="whose questions are sent; by default the sample's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of what many connections get")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--times", type=Path)
    parser.add_argument("--out", type=Path, help="one JSON document with every run")
    asked = parser.parse_args()
    trial = Trial(asked)
    document = trial.run()
    if asked.out is not None:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(document)
    wrong = [text for one in trial.outcomes for text in one.wrong]
    lost = sum(one.lost for one in trial.outcomes)
    print(f"{lost} lost, {len(wrong)} different", *wrong[:3], sep="\n")
    return int(bool(wrong or lost))


if __name__ == "__main__":
    sys.exit(main())
