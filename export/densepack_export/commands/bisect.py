"""The command `bisect`: the first tensor where two rungs part."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from densepack_export.commands.options import require_torch
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import BundleArgument, JsonOption, LimitOption, SquadOption, app
from densepack_runtime.errors import InputError, ParityError, require
from densepack_runtime.host.console import print_json, print_table, tell
from densepack_runtime.parity.climb import ParityRun
from densepack_runtime.parity.ladder import bundle_run
from densepack_runtime.question_answering.squad import load_squad


@app.command("bisect")
def bisect_command(
    bundle: BundleArgument,
    left: Annotated[
        str, typer.Argument(metavar="LEFT", help="fp32, fp16, fused, plan, torch, or an ONNX file: what to trust.")
    ] = "fp32",
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="The same: what to look at.")] = "fp16",
    squad: SquadOption = "sample",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="The original checkpoint, for the side torch: folder or hub id.", show_default=False),
    ] = None,
    limit: LimitOption = None,
    json_output: JsonOption = False,
) -> None:
    """Name the first tensor where the hidden states of two sides part: exit 0 when they do not.

    Example: densepack bisect bundle fp32 fused
    """
    opened = Bundle.open(bundle)
    run = bundle_run(opened, load_squad(squad, limit), Path(squad).name)
    run_bisect(opened, run, (left, right), checkpoint, json_output=json_output)


def run_bisect(bundle: Bundle, run: ParityRun, names: Sequence[str], source: str | None, *, json_output: bool) -> None:
    """Compare two sides on the first batch of the run. Raises ParityError that names the tensor where they part."""
    require("onnx_ir", "export")
    from densepack_export.proofs.bisect import BISECT_COLUMNS, bisect, bisect_rows, departure, open_side

    if len(names) != 2:
        raise InputError(f"two sides are compared, separated by a comma, got {','.join(names)!r}")
    module = None
    if source is not None:
        require_torch()
        from densepack_models import load_checkpoint
        from densepack_models import pack as pack_checkpoint

        module = pack_checkpoint(load_checkpoint(source))
    batch = next(run.batches())
    with ExitStack() as opened:
        left, right = (open_side(name, bundle, opened, module) for name in names)
        points = bisect(left, right, batch)
    found = departure(points)
    if json_output:
        print_json({"left": left.name, "right": right.name, "points": [asdict(point) for point in points]})
    else:
        rows, length = batch.shape
        print_table(
            f"{right.name} against {left.name}, one batch of {rows}x{length}", BISECT_COLUMNS, bisect_rows(points)
        )
    if found is not None:
        raise ParityError(
            f"{right.name} leaves {left.name} at {found.name}: relative error {found.error:.2g} after {found.trend:.2g}"
        )
    tell(f"{right.name} follows {left.name} through all {len(points)} points")
