"""The commands that train: `densepack prune`, `densepack fill`, `densepack finetune`. They need the extra `prune`.

A run keeps its state in --state-dir and can be stopped at any time:

    kill -USR1 PID      write a checkpoint and pause, the cores are free; kill -USR2 PID goes on
    kill PID, Ctrl-C    write a checkpoint and end; the same command with --resume goes on
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densepack_export.commands.command_signature import changed, told_command_line, with_options
from densepack_export.commands.options import OverwriteOption
from densepack_models.pruning.option_fields import faults_of, option, refuse
from densepack_models.pruning.options import PRESETS, Preset, PruningOptions, TrainingOptions
from densepack_runtime.commands.options import JsonOption, ThreadsOption, app
from densepack_runtime.errors import DensepackError, require
from densepack_runtime.host.console import print_json, print_table, tell, tell_next, told_here
from densepack_runtime.question_answering.squad import load_squad

if TYPE_CHECKING:
    from densepack_models.pruning.recipes import Run, TrainingResult

EXTRA = "prune"
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint to start from: folder or hub id.")]
PrunedArgument = Annotated[str, typer.Argument(metavar="PRUNED", help="A pruned checkpoint: folder or hub id.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, in the published format.")]
TeacherOption = Annotated[
    str, typer.Option(metavar="CHECKPOINT", help="Whose logits are learnt: folder or hub id; same vocabulary.")
]
OtherTeacherOption = Annotated[
    str | None,
    typer.Option(metavar="CHECKPOINT", help="Also learn from this one; same vocabulary.", show_default=False),
]
DataOption = Annotated[
    str, typer.Option(metavar="FILE", help="Training data, SQuAD v1.1 or v2.0 (.json or .json.gz), or `sample`.")
]
PresetOption = Annotated[
    Preset,
    typer.Option(help="hybrid: 32x32 blocks and FFN units, as published; struct: whole heads; magnitude: a baseline."),
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is asked of a run beside its training: where its state is, what is read and scored, how the result is
    written.
    """

    state_dir: Path | None = option(
        None,
        "Where checkpoints, the log, windows and teacher logits are kept; by default OUT.state.",
        told=False,
        before="epochs",
    )
    resume: bool = option(
        False,
        "Go on from the last checkpoint in --state-dir (from the start without one).",
        told=False,
        before="epochs",
    )
    limit: int | None = option(None, "Train on the first N questions only.", least=1, before="token_budget")
    bf16: bool = option(False, "The same as --precision bf16.", before="device")
    threads: ThreadsOption = option(None, told=False, before="seed")
    eval_squad: str | None = option(
        None, "Score this SQuAD file during the run and at its end.", metavar="FILE", before="eval_every"
    )
    eval_limit: int | None = option(None, "Score the first N questions only.", least=1)
    half: bool = option(False, "Write float16 (half the size).")
    overwrite: OverwriteOption = option(False, told=False)
    json_output: JsonOption = option(False, told=False)

    def __post_init__(self) -> None:
        refuse(faults_of(self))


@app.command()
@with_options(PruningOptions(), TrainingOptions(), RunOptions())
def prune(
    context: typer.Context,
    model: ModelArgument,
    out: OutArgument,
    teacher: TeacherOption,
    data: DataOption,
    preset: PresetOption = "hybrid",
    **asked: object,
) -> None:
    """Fine-prune a checkpoint: block movement pruning with a teacher, as the published models were made.

    Example: densepack prune model/ pruned/ --teacher model/ --data train-v1.1.json.gz --target-density 0.3 --bf16
    """
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    pruning = changed(PRESETS[preset], asked)
    run = _run(context, asked, start=model, out=out, data=data)
    result = recipes.prune(load_checkpoint(model), out, load_checkpoint(teacher), run, pruning)
    _show(result, asked)


@app.command()
@with_options(TrainingOptions(epochs=4.0), RunOptions())
def fill(
    context: typer.Context,
    pruned: PrunedArgument,
    out: OutArgument,
    teacher: TeacherOption,
    data: DataOption,
    **asked: object,
) -> None:
    """Pack a pruned checkpoint, revive the zeros that are left in it, and fine-tune it: same shape, higher F1.

    Example: densepack fill pruned/ filled/ --teacher model/ --data train-v1.1.json.gz --epochs 1 --bf16
    """
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    run = _run(context, asked, start=pruned, out=out, data=data)
    _show(recipes.fill(load_checkpoint(pruned), out, load_checkpoint(teacher), run), asked)


@app.command()
@with_options(TrainingOptions(epochs=2.0), RunOptions())
def finetune(
    context: typer.Context,
    model: ModelArgument,
    out: OutArgument,
    data: DataOption,
    teacher: OtherTeacherOption = None,
    **asked: object,
) -> None:
    """Fine-tune a checkpoint on question answering, without masks. A pretrained encoder gets a new head.

    Example: densepack finetune encoder/ tuned/ --data train-v1.1.json.gz --learning-rate 5e-5 --bf16
    """
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    run = _run(context, asked, start=model, out=out, data=data)
    tutor = None if teacher is None else load_checkpoint(teacher)
    start = load_checkpoint(model, head_seed=run.training.seed)
    _show(recipes.finetune(start, out, tutor, run), asked)


def _need_training() -> None:
    for package in ("torch", "transformers", "accelerate"):
        require(package, EXTRA)
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def _run(context: typer.Context, asked: Mapping[str, object], *, start: str, out: Path, data: str) -> Run:
    """The settings that all three commands have, from what was asked for by name."""
    import torch

    from densepack_models.pruning.recipes import Run

    training, options = changed(TrainingOptions(), asked), changed(RunOptions(), asked)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return Run(
        data=load_squad(data, options.limit),
        state_dir=options.state_dir or out.with_name(f"{out.name}.state"),
        training=replace(training, precision="bf16") if options.bf16 else training,
        eval_data=None if options.eval_squad is None else load_squad(options.eval_squad, options.eval_limit),
        before=Path(start),
        command_line=told_command_line(context, PruningOptions, TrainingOptions, RunOptions),
        resume=options.resume,
        half=options.half,
        overwrite=options.overwrite,
        story=told_here(),
    )


def _show(result: TrainingResult, asked: Mapping[str, object]) -> None:
    if asked["json_output"]:
        print_json(result.as_dict())
    else:
        print_table(str(result.out), ("what", "value"), result.rows())
    tell(f"wrote {result.out}")
    tell_next(f"densepack build {result.out} bundle", "packs it, and proves that it answers as before")
    if result.evaluation_failure is not None:
        raise DensepackError(f"{result.out} is whole, but it could not be scored: {result.evaluation_failure}")
