"""The command `plan`: how many servers a load needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import (
    BackendOption,
    BundleArgument,
    CacheOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    app,
)
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import print_json, print_table, progress_bar, tell
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import load_squad
from densepack_runtime.sessions.host_record import host_facts
from densepack_runtime.sessions.options import SessionOptions

if TYPE_CHECKING:
    from densepack_runtime.serving.grid import Grid
    from densepack_runtime.serving.sizing.batch_times import BatchTimes
    from densepack_runtime.serving.sizing.replicas import Fleet

# As many questions tell how long they are.
_LENGTHS = 2000


@app.command("plan")
def plan_servers(
    bundle: BundleArgument,
    rate: Annotated[float, typer.Option(min=0.001, help="Questions a second that have to be answered.")],
    p99_ms: Annotated[float, typer.Option("--p99-ms", min=0.1, help="Within this, 99 of 100 of them.")],
    lengths: Annotated[
        str,
        typer.Option(metavar="FILE", help="A SQuAD file with questions and contexts like theirs, or `sample`."),
    ] = "sample",
    precision: PrecisionOption = "fastest",
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    cache: CacheOption = None,
    times: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured times: read where there is one, else written.", show_default=False),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """How many servers like this host a load needs: batch times measured here, `densepack serve` simulated over them.

    Example: densepack plan bundle --rate 200 --p99-ms 300
    """
    for package in ("starlette", "prometheus_client"):
        require(package, "serve")
    from densepack_runtime.serving.grid import Grid
    from densepack_runtime.serving.sizing import replicas
    from densepack_runtime.serving.sizing.simulation import Simulation

    opened = Bundle.open(bundle)
    choice = choose_backend(opened, backend, precision, cache=cache)
    grid = Grid.of(choice.batching, opened.manifest.max_length)
    options = SessionOptions(threads=threads, cache=cache)
    lanes = choice.batching.lanes_of(options.cpu_threads)
    with QuestionAnswerer.of(opened, choice, replace(options, lanes=lanes)) as answerer:
        pairs, questions = _answerable(answerer, lengths)
        measured_of = {
            **host_facts(Host.here()),
            "bundle": opened.sha256,
            "backend": answerer.backend or "",
            "threads": str(threads),
            "lanes": str(lanes),
        }
        measured = _times(times, measured_of, answerer, grid, pairs)
    with progress_bar("simulating", replicas.tries()) as advance:
        simulation = Simulation(grid.measured(measured.cost), measured)
        fleet = replicas.size(simulation, questions, rate, p99_ms / 1000, tried=lambda text: advance(1, text))
    told = _told(fleet)
    if json_output:
        print_json({**told, "times": data_from_record(measured)})
    else:
        print_table(
            f"{rate:g} questions/s on {answerer.backend}",
            ("what", "value"),
            [(_WORDS[name], f"{told[name]:,.4g}") for name in _WORDS],
        )


_WORDS = {
    "replicas": "replicas like this host",
    "rate": "questions a second of each",
    "most": "it could, within that time",
    "saturated": "it could, in any time",
    "busy": "its model runs, % of the time",
    "rows": "rows of a batch, on average",
    "p50_ms": "half of the answers within, ms",
    "p99_ms": "99 of 100 within, ms",
}


def _told(fleet: Fleet) -> dict[str, float]:
    one = fleet.simulated
    return {
        "replicas": fleet.replicas,
        "rate": fleet.rate,
        "most": fleet.most,
        "saturated": fleet.saturated,
        "busy": 100 * one.busy,
        "rows": one.mean_rows,
        "p50_ms": 1000 * one.p50_s,
        "p99_ms": 1000 * one.p99_s,
    }


def _answerable(answerer: QuestionAnswerer, name: str) -> tuple[list[Pair], list[list[int]]]:
    """Pairs of a file and the lengths of their windows; those that fit no window are left out."""
    pairs = [(one.question, one.context) for one in load_squad(name, limit=_LENGTHS).questions]
    windows = answerer.windower.windows_or_errors(pairs, truncate_question=answerer.truncate_question)
    found = [(pair, ours) for pair, ours in zip(pairs, windows, strict=True) if not isinstance(ours, InputError)]
    if not found:
        raise InputError(f"{name} has no question that can be answered: how long are yours?")
    return [pair for pair, _ in found], [[window.length for window in ours] for _, ours in found]


def _times(
    path: Path | None, measured_of: dict[str, str], answerer: QuestionAnswerer, grid: Grid, pairs: Sequence[Pair]
) -> BatchTimes:
    """Those that are kept at a path, or measured now and kept there."""
    from densepack_runtime.serving.sizing.batch_times import KeptTimes, measure, steps

    if path is not None and path.exists():
        return KeptTimes.read(path, measured_of).times
    with progress_bar("measuring", steps(grid)) as advance:
        times = measure(answerer, grid, pairs, measured=lambda text: advance(1, text))
    if path is not None:
        KeptTimes(measured_of, times).write(path)
        tell(f"wrote {path}")
    return times
