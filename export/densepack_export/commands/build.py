"""The command `build`: from a checkpoint to a checked bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from densepack_export.commands.options import (
    CheckpointArgument,
    FlavourOption,
    LengthsOption,
    MaxBatchOption,
    OverwriteOption,
    PadToOption,
    RevisionOption,
    numbers,
    require_torch,
)
from densepack_runtime.commands.options import JsonOption, LimitOption, SquadOption, ThreadsOption, app
from densepack_runtime.host.console import print_json, tell, tell_next, told_here
from densepack_runtime.question_answering.squad import load_squad
from densepack_runtime.sessions.options import SessionOptions


@app.command()
def build(
    checkpoint: CheckpointArgument,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to write.")],
    squad: SquadOption = "sample",
    limit: LimitOption = None,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens in a window at most.")] = 384,
    doc_stride: Annotated[int, typer.Option(min=1, help="Tokens that neighbouring windows share.")] = 128,
    pad_to: PadToOption = 1,
    parity: Annotated[
        bool, typer.Option("--parity/--no-parity", help="Check every rung; recorded in the bundle.")
    ] = True,
    engine: Annotated[
        bool | None,
        typer.Option(
            "--engine/--no-engine",
            help="Build a TensorRT plan; by default where a TensorRT is installed.",
            show_default=False,
        ),
    ] = None,
    flavour: FlavourOption = "auto",
    lengths: LengthsOption = "64,128,256,384",
    max_batch: MaxBatchOption = 32,
    revision: RevisionOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Pack, export, build the engine, check parity, write the report: from a checkpoint to a bundle.

    Example: densepack build models/checkpoints/default bundle --squad dev-v1.1.json
    """
    require_torch()
    from densepack_export.build import BuildOptions, build_bundle
    from densepack_export.plans.into_bundle import PlanRequest

    options = BuildOptions(
        squad=load_squad(squad, limit),
        squad_name=Path(squad).name,
        max_length=max_length,
        doc_stride=doc_stride,
        pad_to=pad_to,
        parity=parity,
        engine=engine,
        plan_request=PlanRequest(flavour=flavour, lengths=numbers(lengths), max_batch=max_batch),
        revision=revision,
        overwrite=overwrite,
        session=SessionOptions(threads=threads),
    )
    result = build_bundle(checkpoint, bundle, options, told_here(tables=not json_output))
    if json_output:
        print_json({"bundle": str(bundle), "manifest": json.loads(result.bundle.manifest.to_json())})
    tell(f"wrote {bundle}: {', '.join(sorted(result.bundle.manifest.files))}")
    tell_next(f"densepack prove {bundle}", "whether it is right on this host, and how fast")
