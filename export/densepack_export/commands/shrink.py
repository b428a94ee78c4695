"""The command that prunes without training: `densepack shrink`. It needs the extra `prune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from densepack_export.commands.command_signature import changed, told_command_line, with_options
from densepack_export.commands.options import OverwriteOption
from densepack_models.pruning.option_fields import option
from densepack_models.pruning.options import ShrinkOptions, TrainingOptions, family_from_text
from densepack_models.pruning.second_order.budgets import Goal, Quantity
from densepack_runtime.benchmark.sides import Cell
from densepack_runtime.commands.options import JsonOption, ThreadsOption, app
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import print_json, print_table, tell, tell_next, told_here
from densepack_runtime.host.user_cache import CACHE_VARIABLE, named_cache
from densepack_runtime.question_answering.squad import load_squad
from densepack_runtime.sessions.options import SessionOptions

if TYPE_CHECKING:
    from densepack_export.bench.clock import SessionClock
    from densepack_models.pruning.recipes import TrainingResult
    from densepack_models.pruning.second_order.recipe import ShrinkResult

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
FlopsOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="FLOPs to keep of a window of --length tokens, attention products included, 0 to 1.",
        show_default=False,
    ),
]
SpeedupOption = Annotated[
    float | None,
    typer.Option(metavar="TIMES", help="Times as fast as the dense model on --backend, above 1.", show_default=False),
]
LatencyOption = Annotated[
    float | None,
    typer.Option(metavar="MS", help="Milliseconds of a batch on --backend at most.", show_default=False),
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES",
        help="Several models from one measurement: densities, below 1, and speed-ups, above: 0.7,3 writes OUT/0.70 "
        "and OUT/3x.",
        show_default=False,
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose time counts: a backend, like openvino.", show_default=False),
]
PrecisionOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the backend; by default its own.", show_default=False)
]
BatchOption = Annotated[int, typer.Option(min=1, help="Windows of a batch whose time counts.")]
LengthOption = Annotated[int, typer.Option(min=1, help="Tokens of the windows whose time or FLOPs count.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help=f"Keep what was timed here; by default the folder of {CACHE_VARIABLE}, or OUT.state.",
        show_default=False,
    ),
]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="Matrix products in bfloat16 (autocast).")]
RecoverOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="STEPS", help="Fine-tune what was cut for so many steps, with a teacher.", show_default=False
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(metavar="CHECKPOINT", help="Whose logits --recover learns; by default MODEL's.", show_default=False),
]
StagesOption = Annotated[int, typer.Option(min=1, help="Cut and recover in turn so many times, by equal factors.")]
# What recovering starts from: it is short, and what was cut is near its teacher already.
RECOVERY = TrainingOptions(learning_rate=1.5e-4, dropout=0.0, attention_dropout=0.0)
_COLUMNS = ("layer", "heads", "FFN units", "predicted loss, attention", "predicted loss, FFN")


@dataclass(frozen=True, slots=True)
class _Session:
    """Whose time counts."""

    backend: str | None
    precision: str | None
    batch: int
    length: int
    threads: int | None
    kept: Path  # folder of what was timed


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How the result is written and told."""

    state_dir: Path | None = option(
        None, "Where what was measured and worked out is kept; by default OUT.state.", told=False
    )
    resume: bool = option(False, "Go on from --state-dir (from the start where there is nothing).", told=False)
    threads: ThreadsOption = option(None, told=False)
    half: bool = option(False, "Write float16 (half the size).")
    overwrite: OverwriteOption = option(False, told=False)
    json_output: JsonOption = option(False, told=False)


@app.command()
@with_options(
    ShrinkOptions(),
    RECOVERY,
    OutputOptions(),
    without=("precision", "epochs", "max_steps", "bad_answers", "eval_every"),
)
def shrink(
    context: typer.Context,
    model: ModelArgument,
    out: OutArgument,
    data: DataOption,
    density: DensityOption = None,
    flops: FlopsOption = None,
    speedup: SpeedupOption = None,
    latency_ms: LatencyOption = None,
    family: FamilyOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    batch: BatchOption = 1,
    length: LengthOption = 384,
    cache: CacheOption = None,
    recover: RecoverOption = None,
    teacher: TeacherOption = None,
    stages: StagesOption = 1,
    bf16: Bf16Option = False,
    **asked: object,
) -> None:
    """Prune a checkpoint in minutes, without training: heads and FFN units go by second-order cost, the rest is refit.

    Example: densepack shrink model/ small/ --data train-v1.1.json.gz --density 0.5
    """
    for package in ("torch", "transformers", *(("accelerate",) if recover is not None else ())):
        require(package, "prune")
    import torch

    from densepack_models.formats.checkpoint import load_checkpoint
    from densepack_models.pruning.second_order.recipe import Output, shrink

    if recover is None and (teacher is not None or stages > 1):
        raise InputError("--teacher and --stages are for what is recovered: say how long, --recover STEPS")
    autocast: Literal["fp32", "bf16"] = "bf16" if bf16 else "fp32"
    options, how = changed(ShrinkOptions(precision=autocast), asked), changed(OutputOptions(), asked)
    state = how.state_dir or out.with_name(f"{out.name}.state")
    kept = cache or named_cache() or state
    sizes: dict[Quantity, float | None] = {
        "density": density,
        "flops": flops,
        "speedup": speedup,
        "latency": latency_ms,
    }
    goals = _goals(out, sizes, family, _Session(backend, precision, batch, length, how.threads, kept))
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    command_line = told_command_line(context, ShrinkOptions, TrainingOptions, OutputOptions)
    output = Output(how.half, how.overwrite, Path(model), command_line, state, how.resume)
    start, questions = load_checkpoint(model), load_squad(data)
    if recover is None:
        _show([(cut, None) for cut in shrink(start, goals, questions, options, output, told_here())], how)
        return
    from densepack_models.pruning.second_order.recovery import Recovery, shrink_and_recover

    training = replace(changed(RECOVERY, asked), max_steps=recover, precision=autocast)
    recovery = Recovery(start if teacher is None else load_checkpoint(teacher), training, stages)
    _show(shrink_and_recover(start, goals, questions, options, recovery, output, told_here()), how)


def _show(results: Sequence[tuple[ShrinkResult, TrainingResult | None]], how: OutputOptions) -> None:
    if how.json_output:
        print_json([cut.as_dict() | ({"recovered": trained.as_dict()} if trained else {}) for cut, trained in results])
    for cut, trained in results:
        out = trained.out if trained else cut.out
        if not how.json_output:
            print_table(f"{out}: {100 * cut.linear_density:.2f} % of the linear weights", _COLUMNS, cut.rows())
        if trained and not how.json_output:
            print_table(f"{out}, recovered", ("what", "value"), trained.rows())
        tell(f"wrote {out}")
        tell_next(f"densepack build {out} bundle", "packs it, and proves that it answers as before")


def _goals(
    out: Path, sizes: Mapping[Quantity, float | None], family: str | None, session: _Session
) -> dict[Path, Goal]:
    """What to write where: one size to OUT, the members of a family to folders in it."""
    asked = [(quantity, value) for quantity, value in sizes.items() if value is not None]
    if len(asked) + (family is not None) != 1:
        raise InputError("how small is not clear: give one of --density, --flops, --speedup, --latency-ms and --family")
    wanted = dict(zip([out], asked, strict=False))
    for value in family_from_text(family) if family is not None else ():
        name = f"{value:g}x" if value > 1 else f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
        wanted[out / name] = ("speedup" if value > 1 else "density", value)
    timed = any(quantity in ("speedup", "latency") for quantity, _ in wanted.values())
    clock = _clock(session) if timed else None
    return {folder: Goal(*size, session.length, clock) for folder, size in wanted.items()}


def _clock(session: _Session) -> SessionClock:
    for package in ("onnx", "onnxscript"):
        require(package, "export")
    from densepack_export.bench.clock import SessionClock, kind_of

    if session.backend is None:
        raise InputError("a speed is that of a backend: say which with --backend, and --precision, --batch, --length")
    kind = kind_of(session.backend, session.precision)
    options = SessionOptions(threads=session.threads, max_length=session.length)
    return SessionClock(kind, Cell(session.batch, session.length), options, session.kept, tell)
