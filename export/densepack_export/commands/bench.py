"""The command `bench`; registered by `densepack_export.cli`, and as light at import."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densepack_export.bench.names import kinds
from densepack_export.commands.options import numbers
from densepack_runtime.benchmark.tables import show_benchmark
from densepack_runtime.commands.options import CacheOption, JsonOption, LimitOption, ThreadsOption, app
from densepack_runtime.errors import InputError
from densepack_runtime.host.command_record import told_command
from densepack_runtime.host.console import print_json, progress_bar, tell
from densepack_runtime.host.files import refuse_new_file, write_text_atomic
from densepack_runtime.sessions.options import SessionOptions

if TYPE_CHECKING:
    from densepack_runtime.benchmark.growth import GrowthPlan
    from densepack_runtime.benchmark.sides import Cell, Settings, Side

# The vocabulary of the published model; a wheel does not hold it.
_DEFAULT_TOKENIZER = Path(__file__).resolve().parents[3] / "models" / "checkpoints" / "default" / "tokenizer.json"


@dataclass(frozen=True, slots=True)
class _Request:
    """What shall be measured; a part that is None (or has no cells) is left out."""

    cells: tuple[Cell, ...]
    settings: Settings
    memory: bool
    squad: Path | None
    limit: int | None
    growth: GrowthPlan | None
    options: SessionOptions


@app.command()
def bench(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="SIDE",
            help="SOURCE@VARIANT. A bundle, a checkpoint or `seed`; `packed` (if nothing is said; ONNX Runtime) or "
            f"`dense`, each also {', '.join(f'-{kind}' for kind in kinds() if kind)}. What needs a GPU says so.",
        ),
    ],
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    lengths: Annotated[str, typer.Option(help="Window lengths in tokens, separated by commas.")] = "128,384",
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Time batches of these shapes.")] = True,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    settle: Annotated[float, typer.Option(min=0, help="Pause before every sample, in milliseconds.")] = 50.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Memory of each side, in a fresh process.")
    ] = True,
    squad: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also time a SQuAD file end to end, from the file to EM and F1; `sample`: the embedded set.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="tokenizer.json for sides that have none (`seed`); by default the embedded checkpoint's.",
            show_default=False,
        ),
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="Also measure how time and memory grow, each point in a fresh process.")
    ] = False,
    growth_questions: Annotated[str, typer.Option(help="Numbers of questions.")] = "100,1000,10000",
    growth_words: Annotated[str, typer.Option(help="Words in a context.")] = "100,1000,10000,100000",
    growth_threads: Annotated[str, typer.Option(help="Numbers of CPU threads.")] = "1,2",
    threads: ThreadsOption = None,
    cache: CacheOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON document here.", show_default=False)] = None,
    json_output: JsonOption = False,
) -> None:
    """Time and memory side by side, in interleaved rounds; every side is compared with the first.

    Example: densepack bench seed@dense seed@packed-openvino --squad dev-v1.1.json --limit 1000
    """
    from densepack_runtime.benchmark.growth import GrowthPlan
    from densepack_runtime.benchmark.sides import Cell, Settings
    from densepack_runtime.question_answering.squad import sample_squad_path

    if out is not None:
        refuse_new_file(out)
    cells = [Cell(batch, length) for batch in numbers(batches) for length in numbers(lengths)]
    request = _Request(
        cells=tuple(cells) if latency else (),
        settings=Settings(rounds=rounds, settle_ms=settle),
        memory=memory and latency,
        squad=sample_squad_path() if squad == "sample" else None if squad is None else Path(squad),
        limit=limit,
        growth=GrowthPlan(numbers(growth_questions), numbers(growth_words), numbers(growth_threads))
        if growth
        else None,
        options=SessionOptions(threads=threads, cache=cache),
    )
    document = _measure(sides, request, tokenizer)
    if out is not None:
        write_text_atomic(out, json.dumps(document, indent=1) + "\n")
        tell(f"wrote {out}")
    if json_output:
        print_json(document)
    else:
        show_benchmark(document)


def _measure(names: Sequence[str], request: _Request, tokenizer: Path | None) -> dict[str, Any]:
    from densepack_export.bench.sides import open_side
    from densepack_runtime.benchmark.document import benchmark_document

    if not (request.cells or request.squad or request.growth):
        raise InputError("nothing to measure: --no-latency needs --squad or --growth")
    with ExitStack() as opened:
        sides = [open_side(name, opened, request.options) for name in names]
        if request.squad is not None or request.growth is not None:
            sides = _with_texts(sides, tokenizer)
        document = benchmark_document(sides, request.settings, told_command(sys.argv[1:]))
        document["settings"]["threads"] = request.options.threads
        _measure_sections(document, sides, request)
    return document


def _measure_sections(document: dict[str, Any], sides: Sequence[Side], request: _Request) -> None:
    from densepack_runtime.benchmark.end_to_end import measure_squad, squad_steps
    from densepack_runtime.benchmark.growth import growth_steps, measure_growth
    from densepack_runtime.benchmark.latency import latency_steps, measure_latency
    from densepack_runtime.benchmark.memory import measure_memory

    cells, settings, peak = request.cells, request.settings, document["hardware"]["peak_gflops"]
    if cells:
        with progress_bar("latency", latency_steps(len(sides), len(cells), settings)) as advance:
            document |= measure_latency(sides, cells, settings, peak, lambda text: advance(1, description=text))
    if request.squad is not None:
        _warn_of_random_weights(sides)
        with progress_bar("SQuAD", squad_steps(len(sides), settings)) as advance:
            document["squad"] = measure_squad(
                sides,
                request.squad,
                limit=request.limit,
                settings=settings,
                peak=peak,
                on_step=lambda text: advance(1, description=text),
            )
    if request.memory:
        with progress_bar("memory", len(sides)) as advance:
            found = measure_memory(sides, cells, request.options, lambda text: advance(1, description=text))
        for entry in document["sides"]:
            entry["memory"] = found[entry["name"]]
    if request.growth is not None:
        with progress_bar("growth", growth_steps(len(sides), request.growth)) as advance:
            document["growth"] = measure_growth(
                sides,
                request.growth,
                options=request.options,
                seed=settings.seed,
                on_step=lambda text: advance(1, description=text),
            )


def _with_texts(sides: Sequence[Side], tokenizer: Path | None) -> list[Side]:
    """Sides that have no tokenizer get this one."""
    from densepack_runtime.benchmark.sides import Texts

    lacking = [side.name for side in sides if side.texts is None]
    if not lacking:
        return list(sides)
    path = tokenizer or _DEFAULT_TOKENIZER
    if tokenizer is None and not path.is_file():
        raise InputError(f"{', '.join(lacking)} has no tokenizer: pass --tokenizer with a tokenizer.json of BERT's")
    try:
        texts = Texts(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the tokenizer file {path} cannot be read: {error}") from error
    return [side if side.texts is not None else replace(side, texts=texts) for side in sides]


def _warn_of_random_weights(sides: Sequence[Side]) -> None:
    names = [side.name for side in sides if side.random_weights]
    if names:
        tell(f"note: {', '.join(names)}: random weights; times count, EM and F1 mean nothing")
