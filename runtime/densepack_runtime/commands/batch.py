"""The command `batch`: answers to files of rows, resumed where a run was stopped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Unpack

import typer

from densepack_runtime.commands.options import (
    BundleArgument,
    JsonOption,
    Opening,
    StrictOption,
    app,
    session_of,
    with_opening,
)
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_json, print_table, tell, tell_next
from densepack_runtime.serving.corpora.answering import Engine
from densepack_runtime.serving.corpora.plan import ROWS, Asked
from densepack_runtime.serving.corpora.run import Summary, run_job
from densepack_runtime.serving.corpora.workers import Crew


@app.command()
@with_opening(before="strict")
def batch(
    bundle: BundleArgument,
    given: Annotated[
        str, typer.Argument(metavar="IN", help="A .jsonl, .csv or .parquet file, a folder of them, or a quoted glob.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder for the answered parts, in the format of the input.")
    ],
    question: Annotated[str, typer.Option(help="The column with the questions.")] = "question",
    context: Annotated[str, typer.Option(help="The column with the texts to answer them from.")] = "context",
    row_id: Annotated[
        str | None,
        typer.Option("--id", help="The column that names a row among the bad ones; by default `id`, where it is."),
    ] = None,
    null_threshold: Annotated[
        float | None,
        typer.Option(help="For SQuAD 2: no answer where its score is so much above the best span.", show_default=False),
    ] = None,
    compat: Annotated[bool, typer.Option("--compat", help="Answer as the transformers 4 pipeline did.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a part: what is kept in memory, and done again.")] = ROWS,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where a job was begun.")] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that answer, on Ray, which divide the threads; 0 is this one alone.")
    ] = 0,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster where the workers run; all its hosts see the same files.", show_default=False
        ),
    ] = None,
    strict: StrictOption = False,
    json_output: JsonOption = False,
    **opening: Unpack[Opening],
) -> None:
    """Answer every row of JSON lines, CSV or Parquet; all its columns are kept, answer, score, start and end come in.

    The same command goes on where it was stopped. A bad row goes to OUT/_bad with its reason; exit 1 when all is done.

    Example: densepack batch bundle "corpus/*.parquet" answers --question q --context passage
    """
    if address is not None and not workers:
        raise InputError(
            f"the cluster at {address} is for workers, and none are asked for: say how many with --workers"
        )
    asked = Asked(question, context, row_id, null_threshold, "transformers" if compat else None, rows)
    engine = Engine(bundle, opening["backend"], opening["precision"], session_of(opening), strict)
    crew = Crew(workers, address) if workers else None
    done = run_job(given, out, asked, engine, crew, overwrite=overwrite)
    _show(done, out, json_output=json_output)
    if done.bad_rows:
        raise InputError(
            f"{done.bad_rows} of {done.rows} rows could not be answered: {out / '_bad'} says which and why"
        )
    tell_next(f"ls {out}", "parts in the order of their names hold the rows in theirs")


def _show(done: Summary, out: Path, *, json_output: bool) -> None:
    if json_output:
        print_json({**asdict(done), "rows_per_s": done.rows_per_s})
        return
    print_table(
        str(out),
        ("rows", "answered", "bad", "parts", "done before", "seconds", "rows/s"),
        [
            (
                f"{done.rows:,}",
                f"{done.rows - done.bad_rows:,}",
                f"{done.bad_rows:,}",
                f"{done.parts:,}",
                f"{done.parts_done_before:,}",
                f"{done.seconds:.1f}",
                f"{done.rows_per_s:.1f}",
            )
        ],
    )
    tell(f"wrote {done.parts - done.parts_done_before} parts to {out}")
