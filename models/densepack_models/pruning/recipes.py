"""The three ways to train: prune, fill and finetune, each from checkpoint to checkpoint.

    run = Run(data=read_squad("train.json"), state_dir=Path("state"), training=TrainingOptions(epochs=1))
    result = prune(start, Path("pruned"), teacher, run, PRESETS["hybrid"])
    result = fill(load_checkpoint("pruned"), Path("filled"), teacher, run)

The result is written in the published format, and packs exactly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint, refuse_longer_windows
from densepack_models.formats.writer import LOG, strangers_in
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.density import final_density, refuse_unreachable
from densepack_models.pruning.devices import AUTOCAST, chosen_device
from densepack_models.pruning.evaluation import Evaluator
from densepack_models.pruning.filling import fill_zeros
from densepack_models.pruning.fisher import gate_importance, set_scores
from densepack_models.pruning.masked import MaskSettings
from densepack_models.pruning.options import PruningOptions, ShrinkOptions, TrainingOptions
from densepack_models.pruning.publishing import published, run_record, write_record
from densepack_models.pruning.run_state import settle_state
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.recipe import Output, shrink
from densepack_models.pruning.student import (
    Student,
    packed_student,
    set_dropout,
    student_from_checkpoint,
)
from densepack_models.pruning.teacher import Teacher, refuse_other_vocabulary
from densepack_models.pruning.trainer import (
    StudentTrainer,
    TrainingSetup,
    last_checkpoint,
    steps_in_all,
)
from densepack_models.pruning.training_data import TrainingWindows, describe_dropped
from densepack_models.pruning.training_log import write_history
from densepack_models.weights import tensors_from_module
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.folders import refuse_new_folder
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import SquadDataset, SquadScore


@dataclass(frozen=True)
class Run:
    """What the three recipes share. `eval_data` is scored every `training.eval_every` steps and at the end.

    `state_dir` keeps, by command, checkpoints and the log, and windows and teacher logits in a folder `cache`, or in
    the one that is given. `half` writes the result in float16. `before` is the folder that the start was read from:
    when a run made it, its record and log go on in those of this one. `command_line` is for the record.
    """

    data: SquadDataset
    state_dir: Path
    training: TrainingOptions = field(default_factory=TrainingOptions)
    eval_data: SquadDataset | None = None
    before: Path | None = None
    command_line: str | None = None
    resume: bool = False
    half: bool = False
    overwrite: bool = False
    story: Story = field(default_factory=Story.silent)
    cache: Path | None = None

    @property
    def kept(self) -> Path:
        """Where windows and teacher logits are, which other runs can share."""
        return self.cache or self.state_dir / "cache"


@dataclass(frozen=True)
class TrainingResult:
    """What came out. Densities 0 to 1; `packing_difference` is the largest |Δlogit| between the written checkpoint at
    full size and packed; `revived` are zeros that filling gave a value. `evaluation_failure` is why there is no score
    although one was asked for.
    """

    out: Path
    steps: int
    linear_density: float
    heads: int
    heads_total: int
    parameters: int
    packing_difference: float
    dropped_questions: int
    score: SquadScore | None = None
    revived: int | None = None
    evaluation_failure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"out": str(self.out), "score": self.score and self.score.as_dict()}
        return {name: value for name, value in values.items() if value is not None}

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, as text."""
        rows = [
            ("steps", f"{self.steps:,}"),
            ("linear density", f"{100 * self.linear_density:.3f} %"),
            ("heads left", f"{self.heads} of {self.heads_total}"),
            ("parameters, packed", f"{self.parameters:,}"),
            ("max |Δlogit| of packing", f"{self.packing_difference:.2g}"),
        ]
        if self.revived is not None:
            rows.insert(1, ("zeros revived", f"{self.revived:,}"))
        if self.score is not None:
            rows += [("EM", f"{self.score.exact_match:.2f}"), ("F1", f"{self.score.f1:.2f}")]
        return rows


def prune(start: Checkpoint, out: Path, teacher: Checkpoint, run: Run, pruning: PruningOptions) -> TrainingResult:
    """Fine-prune a checkpoint with a teacher and write what is left. Raises InputError before any work for settings
    that cannot come to anything, TrainingError when the loss is no longer finite.
    """
    if pruning.init == "second-order":
        start, run = _half_cut(start, out, teacher, run, pruning)
    masks = MaskSettings(pruning.method, pruning.attention_block, pruning.last_threshold, pruning.least_share)
    student = student_from_checkpoint(start, masks)
    if pruning.target_density is not None:
        refuse_unreachable(student, pruning.target_density)
    return _train("prune", student, start, out, teacher, run, pruning=pruning)


def _half_cut(
    start: Checkpoint, out: Path, teacher: Checkpoint, run: Run, pruning: PruningOptions
) -> tuple[Checkpoint, Run]:
    """The start of a fine-pruning after a one-shot cut, kept with its state, and the run that goes on there."""
    assert pruning.target_density is not None
    refuse_early(start, teacher, out, run)
    training, folder = run.training, run.state_dir / "start"
    options = ShrinkOptions(
        token_budget=training.token_budget,
        max_length=training.max_length,
        doc_stride=training.doc_stride,
        precision="bf16" if training.precision == "bf16" else "fp32",
        device=training.device,
        seed=training.seed,
    )
    goal = Goal("density", pruning.target_density, share=0.5)
    output = Output(overwrite=True, before=run.before, state_dir=folder, resume=run.resume)
    shrink(start, {folder / "cut": goal}, run.data, options, output, run.story)
    return load_checkpoint(folder / "cut"), replace(run, before=folder / "cut")


def fill(pruned: Checkpoint, out: Path, teacher: Checkpoint, run: Run) -> TrainingResult:
    """Pack a pruned checkpoint, revive the zeros that are left in it, fine-tune it with a teacher and write it."""
    with torch.random.fork_rng(devices=[]):
        packed = pack(pruned)
    tensors, revived = fill_zeros(tensors_from_module(packed), seed=run.training.seed)
    filled = replace(
        pruned,
        structure=packed.structure,
        tensors=tensors,
        heads=tuple(layer.heads for layer in packed.structure.layers),
        head_ids=packed.structure.head_ids,
        ffn_positions=packed.structure.ffn_positions,
    )
    return replace(_train("fill", student_from_checkpoint(filled), pruned, out, teacher, run), revived=revived)


def finetune(start: Checkpoint, out: Path, teacher: Checkpoint | None, run: Run) -> TrainingResult:
    """The same loop without masks: fine-tune a checkpoint on the answers, with a teacher or without."""
    return _train("finetune", student_from_checkpoint(start), start, out, teacher, run)


def _train(
    command: str,
    student: Student,
    start: Checkpoint,
    out: Path,
    teacher: Checkpoint | None,
    run: Run,
    *,
    pruning: PruningOptions | None = None,
) -> TrainingResult:
    training, story = run.training, run.story
    refuse_early(start, teacher, out, run)
    for note in start.notes:
        story.tell(note)
    evaluator = _evaluator(start, run)
    set_dropout(student, training.dropout, training.attention_dropout)
    windows = _windows(start, teacher, run)
    batches = TrainingBatches(windows, token_budget=training.token_budget, seed=training.seed)
    processes = _processes()
    setup = TrainingSetup(
        folder=run.state_dir / command,
        total=steps_in_all(len(batches), training, processes),
        training=training,
        pruning=pruning,
        evaluator=evaluator,
        story=story,
    )
    if pruning is not None:
        assert setup.schedule is not None  # raises when the steps leave no room to prune
    record = _record(command, start, teacher, run, setup)
    last = last_checkpoint(setup.folder)
    settle_state(setup.folder, record, "training", last.name if last else None, resume=run.resume)
    story.tell(
        f"{len(windows):,} windows of {windows.questions - len(windows.dropped):,} questions, {len(batches):,} batches "
        f"of up to {training.token_budget:,} tokens a pass, {setup.total:,} steps; state in {run.state_dir}"
    )
    tutor = _teacher(teacher, windows, run, remember=processes == 1)
    trainer = StudentTrainer(student, batches, tutor, setup)
    if pruning is not None and pruning.init != "zero" and last_checkpoint(setup.folder) is None:
        _start_from_fisher(trainer, batches, pruning)
    trainer.run(resume=run.resume)
    if trainer.last_score is None and trainer.evaluation_failure is None:  # resumed from the end
        trainer.evaluate_student()
    packed, dropped = packed_student(student), len(windows.dropped)
    if not trainer.is_world_process_zero():
        return _result(out, packed, trainer, difference=0.0, dropped=dropped)
    with published(packed, out, start, half=run.half, overwrite=run.overwrite) as written:
        result = _result(out, written.packed, trainer, difference=written.difference, dropped=dropped)
        write_record(written.folder, record, result.as_dict())
        write_history(written.folder / LOG, command, setup.folder / "log.csv", before=run.before and run.before / LOG)
    return result


# --- before -----------------------------------------------------------------------------------------------------------


def refuse_early(start: Checkpoint, teacher: Checkpoint | None, out: Path, run: Run) -> None:
    """Raise InputError, before any work, for what a training could not do or write."""
    chosen_device(run.training)
    refuse_new_folder(out, strangers_in if run.overwrite else None)
    if teacher is not None:
        refuse_other_vocabulary(teacher, start)
    for checkpoint in (start, teacher) if teacher is not None else (start,):
        refuse_longer_windows(checkpoint, run.training.max_length)


def _windows(start: Checkpoint, teacher: Checkpoint | None, run: Run) -> TrainingWindows:
    training = run.training
    windows = TrainingWindows.load_or_make(
        run.data,
        start.tokenizer_json,
        run.kept,
        max_length=training.max_length,
        doc_stride=training.doc_stride,
        bad_answers=training.bad_answers,
        answered=teacher is None or training.distillation_weight < 1 or not run.data.is_test_set,
    )
    if windows.dropped:
        path = run.state_dir / "dropped_questions.json"
        write_text_atomic(path, json.dumps([asdict(question) for question in windows.dropped], indent=1) + "\n")
        run.story.tell(
            f"dropped {len(windows.dropped)} of {windows.questions} questions, all listed in {path}; "
            f"{describe_dropped(windows.dropped)}"
        )
    return windows


def _evaluator(start: Checkpoint, run: Run) -> Evaluator | None:
    if run.eval_data is None:
        return None
    return Evaluator(
        run.eval_data,
        start.tokenizer_json,
        device=chosen_device(run.training),
        autocast=AUTOCAST[run.training.precision],
        longest=start.blank.longest_input,
    )


def _teacher(teacher: Checkpoint | None, windows: TrainingWindows, run: Run, *, remember: bool) -> Teacher | None:
    if teacher is None:
        return None
    tutor = Teacher(teacher, chosen_device(run.training), autocast=AUTOCAST[run.training.precision])
    if remember:
        tutor.remember(windows, run.kept)
    return tutor


def _processes() -> int:
    """How many processes train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _record(
    command: str, start: Checkpoint, teacher: Checkpoint | None, run: Run, setup: TrainingSetup
) -> dict[str, Any]:
    """What the result of a run depends on, as plain data."""
    return run_record(command, run.command_line, start, run.data, run.before) | {
        "teacher": teacher and {"source": teacher.source, "sha256": teacher.sha256},
        "steps": setup.total,
        "training": asdict(run.training),
        "pruning": setup.pruning and asdict(setup.pruning),
    }


def _start_from_fisher(trainer: StudentTrainer, batches: TrainingBatches, pruning: PruningOptions) -> None:
    student, story = trainer.student, trainer.setup.story
    count = min(pruning.fisher_batches, len(batches))
    chosen = DataLoader(batches, batch_size=None, sampler=range(count))

    def counted(advance: Any) -> Iterator[dict[str, Tensor]]:
        for batch in islice(chosen, count):
            yield batch
            advance(1)

    with story.bar("ranking heads and units", count) as advance:
        importance = gate_importance(student, counted(advance), autocast=AUTOCAST[trainer.setup.training.precision])
    last = pruning.last_threshold
    left = student.structure.linear_density
    set_scores(
        student,
        importance,
        cut=0.0 if pruning.target_density is None else 1 - pruning.target_density / left,
        last_score=float(torch.logit(torch.tensor(last))) if pruning.method == "sigmoid" else last,
        attention_coefficient=pruning.attention_coefficient,
        dense_coefficient=pruning.dense_coefficient,
    )
    story.tell(
        f"ranked heads and units on {count} batches: {100 * final_density(student).linear_density:.1f} % "
        "of the linear weights are above the last threshold"
    )


# --- after ------------------------------------------------------------------------------------------------------------


def _result(
    out: Path, packed: PackedBertForQuestionAnswering, trainer: StudentTrainer, *, difference: float, dropped: int
) -> TrainingResult:
    structure = packed.structure
    return TrainingResult(
        out=out,
        steps=trainer.setup.total,
        linear_density=structure.linear_density,
        heads=structure.heads_left,
        heads_total=structure.heads_total,
        parameters=structure.parameters,
        packing_difference=difference,
        dropped_questions=dropped,
        score=trainer.last_score,
        evaluation_failure=trainer.evaluation_failure,
    )
