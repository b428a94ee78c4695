"""The command that prunes without training: `densepack shrink`. It needs the extra `prune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from densepack_export.commands.command_signature import changed, told_command_line, with_options
from densepack_export.commands.options import OverwriteOption
from densepack_models.pruning.option_fields import option
from densepack_models.pruning.options import ShrinkOptions, densities_from_text
from densepack_runtime.commands.options import JsonOption, ThreadsOption, app
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import print_json, print_table, progress_bar, tell
from densepack_runtime.question_answering.squad import load_squad

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint to shrink: folder or hub id.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, in the published format.")]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="SQuAD v1.1 or v2.0 (.json or .json.gz), JSON lines of `question` and `context` without answers, or "
        "`sample`.",
    ),
]
DensityOption = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Linear weights to keep, 0 to 1.", show_default=False)
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        metavar="SHARES", help="Several models from one measurement: 0.7,0.5 writes OUT/0.70 …", show_default=False
    ),
]
_COLUMNS = ("layer", "heads", "FFN units", "predicted loss, attention", "predicted loss, FFN")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How the result is written and told."""

    threads: ThreadsOption = option(None, told=False)
    half: bool = option(False, "Write float16 (half the size).")
    overwrite: OverwriteOption = option(False, told=False)
    json_output: JsonOption = option(False, told=False)


@app.command(rich_help_panel="Training")
@with_options(ShrinkOptions(), OutputOptions())
def shrink(
    context: typer.Context,
    model: ModelArgument,
    out: OutArgument,
    data: DataOption,
    density: DensityOption = None,
    family: FamilyOption = None,
    **asked: object,
) -> None:
    """Prune a checkpoint in minutes, without training: heads and FFN units go by second-order cost, the rest is refit.

    Example: densepack shrink model/ small/ --data train-v1.1.json.gz --density 0.5
    """
    for package in ("torch", "transformers"):
        require(package, "prune")
    import torch

    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning.second_order import recipe
    from densepack_models.pruning.training_log import Story

    options, how = changed(ShrinkOptions(), asked), changed(OutputOptions(), asked)
    if (density is None) == (family is None):
        raise InputError("how small is not clear: give one of --density and --family")
    targets = {out: density} if density is not None else recipe.family_folders(out, densities_from_text(family or ""))
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    command_line = told_command_line(context, ShrinkOptions, OutputOptions)
    output = recipe.Output(how.half, how.overwrite, before=Path(model), command_line=command_line)
    results = recipe.shrink(
        load_checkpoint(model), targets, load_squad(data), options, output, Story(tell, progress_bar)
    )
    if how.json_output:
        print_json([result.as_dict() for result in results])
    for result in results:
        if not how.json_output:
            print_table(
                f"{result.out}: {100 * result.linear_density:.2f} % of the linear weights", _COLUMNS, result.rows()
            )
        tell(f"wrote {result.out}")
