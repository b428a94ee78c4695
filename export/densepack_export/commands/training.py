"""The commands that train: `densepack prune`, `densepack fill`, `densepack finetune`. They need the extra `prune`.

A run keeps its state in --state-dir and can be stopped at any time:

    kill -USR1 PID      write a checkpoint and pause, the cores are free; kill -USR2 PID goes on
    kill PID, Ctrl-C    write a checkpoint and end; the same command with --resume goes on
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from densepack_runtime.commands.options import JsonOption, ThreadsOption, app
from densepack_runtime.errors import require
from densepack_runtime.host.console import STORY, print_json, print_table, progress_bar, tell
from densepack_runtime.question_answering.squad import load_squad

if TYPE_CHECKING:
    from densepack_models.pruning.options import PruningOptions
    from densepack_models.pruning.recipes import Run, TrainingResult

EXTRA = "prune"
# Options that do not change what comes out.
_UNTOLD = ("state_dir", "resume", "overwrite", "json_output", "threads", "save_every", "log_every")
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, in the published format.")]
TeacherOption = Annotated[
    str, typer.Option(metavar="CHECKPOINT", help="Whose logits are learnt: folder or hub id; same vocabulary.")
]
DataOption = Annotated[
    str, typer.Option(metavar="FILE", help="Training data, SQuAD v1.1 or v2.0 (.json or .json.gz), or `sample`.")
]
DataLimitOption = Annotated[
    int | None, typer.Option(min=1, help="Train on the first N questions only.", show_default=False)
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        help="Where checkpoints, the log, windows and teacher logits are kept; by default OUT.state.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint in --state-dir (from the start without one).")
]
EpochsOption = Annotated[float, typer.Option(help="Passes over the data; fractions are allowed.")]
MaxStepsOption = Annotated[
    int | None, typer.Option(min=1, help="Optimiser steps, instead of --epochs.", show_default=False)
]
BudgetOption = Annotated[int, typer.Option(min=16, help="Padded tokens in a batch at most.")]
MaxLengthOption = Annotated[int, typer.Option(min=16, help="Tokens in a window at most.")]
StrideOption = Annotated[int, typer.Option(min=0, help="Tokens that neighbouring windows share.")]
LearningRateOption = Annotated[float, typer.Option(help="Highest learning rate of the weights (AdamW).")]
DecayOption = Annotated[float, typer.Option(help="Weight decay of the matrices.")]
WarmupOption = Annotated[
    int | None,
    typer.Option(min=0, help="Steps of learning rate warm-up; by default 4.9 % of the run.", show_default=False),
]
DistillationOption = Annotated[float, typer.Option(help="Share of distillation in the loss, 0 to 1.")]
DropoutOption = Annotated[float, typer.Option(help="Of hidden states, 0 to 1.")]
AttentionDropoutOption = Annotated[
    float, typer.Option(help="Of attention weights, 0 to 1 (0 is much faster on a CPU).")
]
AccumulationOption = Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"], typer.Option(help="Of matrix products (autocast); fp16 needs a GPU.")
]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="The same as --precision bf16.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Several GPUs: start the command with torchrun.")
]
BadAnswersOption = Annotated[
    Literal["drop", "refuse"],
    typer.Option(help="Questions whose answer is not where the data says: leave them out and list them, or stop."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of order, dropout and noise.")]
SaveEveryOption = Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")]
LogEveryOption = Annotated[int, typer.Option(min=1, help="Steps between two rows of the log.")]
EvalSquadOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Score this SQuAD file during the run and at its end.", show_default=False),
]
EvalEveryOption = Annotated[int, typer.Option(min=0, help="Steps between two evaluations; 0: at the end only.")]
EvalLimitOption = Annotated[
    int | None, typer.Option(min=1, help="Score the first N questions only.", show_default=False)
]
HalfOption = Annotated[bool, typer.Option("--half", help="Write float16 (half the size).")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new one is whole.")]


@app.command(rich_help_panel="Training")
def prune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint to start from: folder or hub id.")],
    out: OutArgument,
    teacher: TeacherOption,
    data: DataOption,
    preset: Annotated[
        Literal["hybrid", "struct", "magnitude"],
        typer.Option(
            help="hybrid: 32x32 blocks and FFN units, as published; struct: whole heads; magnitude: a baseline."
        ),
    ] = "hybrid",
    method: Annotated[
        str | None,
        typer.Option(help="sigmoid, topk, threshold, magnitude or l0, instead of the preset's.", show_default=False),
    ] = None,
    attention_block: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Like 32x32 or 64x64, or `head`.", show_default=False),
    ] = None,
    target_density: Annotated[
        float | None,
        typer.Option(help="Share of the linear weights to keep, 0 to 1: λ is steered to it.", show_default=False),
    ] = None,
    regularisation: Annotated[
        float | None, typer.Option("--lambda", help="Final weight of the regulariser; 20.", show_default=False)
    ] = None,
    attention_coefficient: Annotated[
        float | None, typer.Option(help="Of attention in the regulariser; 1.", show_default=False)
    ] = None,
    dense_coefficient: Annotated[
        float | None,
        typer.Option(help="Of the FFN in the regulariser; 0.25. Lower trades heads for units.", show_default=False),
    ] = None,
    first_threshold: Annotated[float | None, typer.Option(help="τ before the ramp; 0.", show_default=False)] = None,
    last_threshold: Annotated[
        float | None,
        typer.Option(help="τ after the ramp; 0.1. For topk and magnitude: the kept share.", show_default=False),
    ] = None,
    initial_warmups: Annotated[
        float | None, typer.Option(help="Where the ramp starts, in warm-ups; 1.", show_default=False)
    ] = None,
    final_warmups: Annotated[
        float | None, typer.Option(help="How long the hold is, in warm-ups; 10.", show_default=False)
    ] = None,
    score_learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate of the scores; 0.01.", show_default=False)
    ] = None,
    init: Annotated[
        Literal["zero", "fisher"],
        typer.Option(help="fisher: scores start from a one-shot ranking, for short schedules."),
    ] = "zero",
    fisher_batches: Annotated[int, typer.Option(min=1, help="Batches that the ranking looks at.")] = 200,
    state_dir: StateOption = None,
    resume: ResumeOption = False,
    epochs: EpochsOption = 20.0,
    max_steps: MaxStepsOption = None,
    limit: DataLimitOption = None,
    token_budget: BudgetOption = 6144,
    max_length: MaxLengthOption = 384,
    doc_stride: StrideOption = 128,
    bad_answers: BadAnswersOption = "drop",
    learning_rate: LearningRateOption = 3e-5,
    weight_decay: DecayOption = 0.0,
    warmup_steps: WarmupOption = None,
    distillation_weight: DistillationOption = 0.9,
    dropout: DropoutOption = 0.1,
    attention_dropout: AttentionDropoutOption = 0.1,
    accumulation: AccumulationOption = 1,
    precision: PrecisionOption = "fp32",
    bf16: Bf16Option = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    save_every: SaveEveryOption = 200,
    log_every: LogEveryOption = 10,
    eval_squad: EvalSquadOption = None,
    eval_every: EvalEveryOption = 0,
    eval_limit: EvalLimitOption = None,
    half: HalfOption = False,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Fine-prune a checkpoint: block movement pruning with a teacher, as the published models were made.

    Example: densepack prune model/ pruned/ --teacher model/ --data train-v1.1.json.gz --target-density 0.3 --bf16
    """
    options = dict(locals())
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    pruning = _pruning_options(options)
    run = _run(options)
    start, tutor = load_checkpoint(model), load_checkpoint(teacher)
    _show(recipes.prune(start, out, tutor, run, pruning), json_output=json_output)


@app.command(rich_help_panel="Training")
def fill(
    context: typer.Context,
    pruned: Annotated[str, typer.Argument(metavar="PRUNED", help="A pruned checkpoint: folder or hub id.")],
    out: OutArgument,
    teacher: TeacherOption,
    data: DataOption,
    state_dir: StateOption = None,
    resume: ResumeOption = False,
    epochs: EpochsOption = 4.0,
    max_steps: MaxStepsOption = None,
    limit: DataLimitOption = None,
    token_budget: BudgetOption = 6144,
    max_length: MaxLengthOption = 384,
    doc_stride: StrideOption = 128,
    bad_answers: BadAnswersOption = "drop",
    learning_rate: LearningRateOption = 3e-5,
    weight_decay: DecayOption = 0.0,
    warmup_steps: WarmupOption = None,
    distillation_weight: DistillationOption = 0.9,
    dropout: DropoutOption = 0.1,
    attention_dropout: AttentionDropoutOption = 0.1,
    accumulation: AccumulationOption = 1,
    precision: PrecisionOption = "fp32",
    bf16: Bf16Option = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    save_every: SaveEveryOption = 200,
    log_every: LogEveryOption = 10,
    eval_squad: EvalSquadOption = None,
    eval_every: EvalEveryOption = 0,
    eval_limit: EvalLimitOption = None,
    half: HalfOption = False,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Pack a pruned checkpoint, revive the zeros that are left in it, and fine-tune it: same shape, higher F1.

    Example: densepack fill pruned/ filled/ --teacher model/ --data train-v1.1.json.gz --epochs 1 --bf16
    """
    options = dict(locals())
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    run = _run(options)
    start, tutor = load_checkpoint(pruned), load_checkpoint(teacher)
    _show(recipes.fill(start, out, tutor, run), json_output=json_output)


@app.command(rich_help_panel="Training")
def finetune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint to start from: folder or hub id.")],
    out: OutArgument,
    data: DataOption,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Also learn from this one; same vocabulary.", show_default=False),
    ] = None,
    state_dir: StateOption = None,
    resume: ResumeOption = False,
    epochs: EpochsOption = 2.0,
    max_steps: MaxStepsOption = None,
    limit: DataLimitOption = None,
    token_budget: BudgetOption = 6144,
    max_length: MaxLengthOption = 384,
    doc_stride: StrideOption = 128,
    bad_answers: BadAnswersOption = "drop",
    learning_rate: LearningRateOption = 3e-5,
    weight_decay: DecayOption = 0.0,
    warmup_steps: WarmupOption = None,
    distillation_weight: DistillationOption = 0.9,
    dropout: DropoutOption = 0.1,
    attention_dropout: AttentionDropoutOption = 0.1,
    accumulation: AccumulationOption = 1,
    precision: PrecisionOption = "fp32",
    bf16: Bf16Option = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    save_every: SaveEveryOption = 200,
    log_every: LogEveryOption = 10,
    eval_squad: EvalSquadOption = None,
    eval_every: EvalEveryOption = 0,
    eval_limit: EvalLimitOption = None,
    half: HalfOption = False,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Fine-tune a checkpoint on question answering, without masks.

    Example: densepack finetune encoder/ tuned/ --data train-v1.1.json.gz --learning-rate 5e-5 --bf16
    """
    options = dict(locals())
    _need_training()
    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning import recipes

    run = _run(options)
    tutor = None if teacher is None else load_checkpoint(teacher)
    _show(recipes.finetune(load_checkpoint(model), out, tutor, run), json_output=json_output)


def _need_training() -> None:
    for package in ("torch", "transformers", "accelerate"):
        require(package, EXTRA)
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def _run(options: dict[str, Any]) -> Run:
    """The settings that all three commands have, from the parameters of a command by name."""
    import torch

    from densepack_models.pruning.options import TrainingOptions
    from densepack_models.pruning.recipes import Run
    from densepack_models.pruning.training_log import Story

    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    names = TrainingOptions.__dataclass_fields__.keys() & options.keys()
    training = TrainingOptions(**{name: options[name] for name in names})
    if options["bf16"]:
        training = replace(training, precision="bf16")
    eval_squad = options["eval_squad"]
    out: Path = options["out"]
    return Run(
        data=load_squad(options["data"], options["limit"]),
        state_dir=options["state_dir"] or out.with_name(f"{out.name}.state"),
        training=training,
        eval_data=None if eval_squad is None else load_squad(eval_squad, options["eval_limit"]),
        before=Path(options["pruned"] if "pruned" in options else options["model"]),
        command_line=_command_line(options["context"]),
        resume=options["resume"],
        half=options["half"],
        overwrite=options["overwrite"],
        story=Story(tell, progress_bar, lines_for_rows=not STORY.is_terminal),
    )


def _command_line(context: typer.Context) -> str:
    """The command with what was asked for: files by their names alone, without what says nothing about the result."""
    parts = ["densepack", str(context.info_name)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params[str(parameter.name)]
        source = context.get_parameter_source(name)
        if name in _UNTOLD or source is None or source.name != "COMMANDLINE":
            continue
        option = [] if parameter.param_type_name == "argument" else [max(parameter.opts, key=len)]
        told = str(value) if isinstance(value, float) else Path(str(value)).name
        parts += option if value is True else [*option, told]
    return shlex.join(parts)


def _pruning_options(options: dict[str, Any]) -> PruningOptions:
    """The preset with what was asked for otherwise."""
    from densepack_models.pruning.options import PRESETS

    preset = PRESETS[options["preset"]]
    names = type(preset).__dataclass_fields__.keys() & options.keys()
    changes = {name: options[name] for name in names if options[name] is not None}
    if options["attention_block"] is not None:
        changes["attention_block"] = _block(options["attention_block"])
    return replace(preset, **changes)


def _block(text: str) -> tuple[int, int] | None:
    """(32, 32) for "32x32", None for "head"."""
    if text == "head":
        return None
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"an attention block is ROWSxCOLUMNS, like 32x32, or `head`; got {text!r}")
    return int(parts[0]), int(parts[1])


def _show(result: TrainingResult, *, json_output: bool) -> None:
    if json_output:
        print_json(result.as_dict())
    else:
        print_table(str(result.out), ("what", "value"), result.rows())
    tell(f"wrote {result.out}")
