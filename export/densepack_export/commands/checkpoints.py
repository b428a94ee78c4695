"""The commands that look at and convert checkpoints: inspect, pack, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from densepack_export.commands.options import (
    CheckpointArgument,
    OverwriteOption,
    PadToOption,
    RevisionOption,
    require_torch,
)
from densepack_runtime.commands.options import JsonOption, app
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_json, print_table, tell
from densepack_runtime.sessions.session import Precision


@app.command()
def inspect(
    checkpoint: CheckpointArgument,
    revision: RevisionOption = None,
    json_output: JsonOption = False,
) -> None:
    """Per layer: heads, FFN units, densities; totals.

    Example: densepack inspect madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1
    """
    require_torch()
    from densepack_models import inspect as inspect_checkpoint
    from densepack_models import load_checkpoint

    inspection = inspect_checkpoint(load_checkpoint(checkpoint, revision=revision))
    if json_output:
        print_json(inspection.as_dict())
        return
    print_table(inspection.source, inspection.columns(), inspection.rows())
    print_table("totals", ("what", "value"), inspection.totals())
    for note in inspection.notes:
        tell(f"note: {note}")


@app.command()
def pack(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    format_: Annotated[
        Literal["packed", "transformers"],
        typer.Option("--format", help="Ours, or as the published models are stored (other tools read that)."),
    ] = "packed",
    pad_to: PadToOption = 1,
    drop_query_dead_heads: Annotated[
        bool, typer.Option("--drop-query-dead-heads", help="Lossy: also remove heads whose queries or keys are zero.")
    ] = False,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Remove what a checkpoint no longer uses, and say how exact that is.

    Example: densepack pack checkpoint/ packed/
    """
    require_torch()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.formats.writer import write_packed, write_transformers
    from densepack_models.packing import logit_difference, pack_with_report

    writers = {"packed": write_packed, "transformers": write_transformers}
    source = load_checkpoint(checkpoint, revision=revision)
    for note in source.notes:
        tell(f"note: {note}")
    packed, report = pack_with_report(source, pad_to=pad_to, drop_query_dead_heads=drop_query_dead_heads)
    difference = logit_difference(source, packed)
    writers[format_](packed, out, tokenizer_json=source.tokenizer_json, overwrite=overwrite)
    if json_output:
        print_json({**report.as_dict(), "max_abs_logit": difference, "written": str(out)})
        return
    print_table(f"packed {source.source}", report.columns(), report.rows())
    print_table("totals", ("what", "value"), [*report.totals(), ("max |Δlogit| to the unpacked", f"{difference:.2g}")])
    tell(f"wrote {out}")


@app.command()
def export(
    packed: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="ONNX file to write.")],
    precision: Annotated[Precision, typer.Option(help="Of the graph.")] = "fp32",
    pad_to: PadToOption = 1,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write the ONNX graph of a checkpoint, packed first if it is not yet.

    Example: densepack export packed/ model.fp16.onnx --precision fp16
    """
    require_torch()
    from densepack_export.graphs.onnx_export import export_onnx
    from densepack_models import load_checkpoint
    from densepack_models import pack as pack_checkpoint

    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already: choose another name, or pass --overwrite")
    module = pack_checkpoint(load_checkpoint(packed, revision=revision), pad_to=pad_to)
    report = export_onnx(module, out, precision=precision)
    if json_output:
        print_json(report.as_dict())
    else:
        print_table(str(out), ("what", "value"), report.rows())
