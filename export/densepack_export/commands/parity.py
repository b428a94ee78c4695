"""The command `parity`: the ladder, with an exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from densepack_export.bundle_changes import store_verdict
from densepack_export.commands.bisect import run_bisect
from densepack_export.commands.options import (
    require_torch,
)
from densepack_runtime.bundle import Bundle, refuse_copy
from densepack_runtime.commands.options import BundleArgument, JsonOption, LimitOption, SquadOption, ThreadsOption, app
from densepack_runtime.errors import ParityError
from densepack_runtime.host.console import print_json, progress_bar
from densepack_runtime.parity.climb import ParityRun
from densepack_runtime.parity.ladder import bundle_run, climb_from_recording
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.parity.tables import show_parity
from densepack_runtime.question_answering.squad import load_squad
from densepack_runtime.sessions.options import SessionOptions


@app.command("parity")
def parity_command(
    bundle: BundleArgument,
    squad: SquadOption = "sample",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The original checkpoint: folder or hub id. Without it, PyTorch's recorded answers stand in.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = None,
    threads: ThreadsOption = None,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Store the report and verdict in the bundle.")
    ] = False,
    bisect: Annotated[
        str | None,
        typer.Option(
            metavar="LEFT,RIGHT",
            help="The older spelling of `densepack bisect`.",
            hidden=True,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Climb the ladder: exit 0 when every rung is within tolerance, 1 otherwise.

    Example: densepack parity bundle --checkpoint checkpoint/ --squad dev-v1.1.json
    """
    opened = Bundle.open(bundle)
    if write:
        refuse_copy(opened)
    dataset = load_squad(squad, limit)
    run = bundle_run(opened, dataset, Path(squad).name)
    if bisect is not None:
        run_bisect(opened, run, bisect.split(","), checkpoint, json_output=json_output)
        return
    options = SessionOptions(threads=threads)
    with progress_bar("parity", len(run.windows)) as advance:
        run = replace(run, on_windows=advance)
        if checkpoint is None:
            report = climb_from_recording(opened, run, options)
        else:
            report = _climb_from_checkpoint(opened, run, checkpoint, options)
    if write:
        store_verdict(opened, report, dataset)
    if json_output:
        print_json(report.as_dict())
    else:
        show_parity(report)
    if not report.passed:
        raise ParityError("parity failed: " + ("; ".join(report.failures) or "no rung was compared"))


def _climb_from_checkpoint(bundle: Bundle, run: ParityRun, source: str, options: SessionOptions) -> ParityReport:
    require_torch()
    from densepack_export.proofs.verify import climb_from_checkpoint
    from densepack_models.formats.checkpoint import load_checkpoint

    return climb_from_checkpoint(bundle, run, load_checkpoint(source), options=options)
