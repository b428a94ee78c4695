"""Cutting and recovering in turn: `densepack shrink --recover STEPS --stages N`.

    recovery = Recovery(teacher, TrainingOptions(max_steps=300), stages=2)
    [(cut, trained)] = shrink_and_recover(start, goals, data, options, recovery, output, story)

Recovering is `finetune` with a teacher. Every member of a family has its own; the first cut of all comes from one
measurement, a later one from what was recovered, measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.pruning.options import ShrinkOptions, TrainingOptions
from densepack_models.pruning.recipes import Run, TrainingResult, finetune, refuse_early
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.recipe import Output, ShrinkResult, shrink, shrink_record, was_written
from densepack_runtime.errors import InputError
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import SquadDataset


@dataclass(frozen=True)
class Recovery:
    """How each of `stages` cuts is recovered, with the logits of `teacher`. The cuts go by equal factors."""

    teacher: Checkpoint
    training: TrainingOptions
    stages: int = 1


@dataclass(frozen=True)
class _Member:
    """One model under way: where its stages are kept, where it goes, how small it shall be, and whether what is there
    may be replaced.
    """

    folder: Path
    out: Path
    goal: Goal
    overwrite: bool

    def cut(self, stage: int) -> Path:
        return self.folder / str(stage) / "cut"

    def recovered(self, stage: int) -> Path:
        return self.folder / str(stage) / "recovered"


def shrink_and_recover(
    start: Checkpoint,
    goals: Mapping[Path, Goal],
    data: SquadDataset,
    options: ShrinkOptions,
    recovery: Recovery,
    output: Output,
    story: Story,
) -> list[tuple[ShrinkResult, TrainingResult]]:
    """The last cut and what became of it, for every goal. Raises InputError as `shrink` and `finetune` do, before any
    work, and where `output` has no folder for the state.
    """
    if output.state_dir is None:
        raise InputError("recovering needs a folder for its state")
    if data.is_test_set and recovery.training.distillation_weight < 1:
        story.tell("the data has no answers: what was cut learns from the teacher alone")
        recovery = replace(recovery, training=replace(recovery.training, distillation_weight=1.0))
    rounds = _Rounds(start, data, options, recovery, output, output.state_dir, story)
    members = [rounds.member(out, goal) for out, goal in goals.items()]
    for stage in range(1, recovery.stages + 1):
        cuts = rounds.cut(members, stage)
        trained = [rounds.recover(member, stage) for member in members]
    return list(zip(cuts, trained, strict=True))


@dataclass(frozen=True)
class _Rounds:
    """What all members and stages share."""

    start: Checkpoint
    data: SquadDataset
    options: ShrinkOptions
    recovery: Recovery
    output: Output
    state_dir: Path
    story: Story

    def member(self, out: Path, goal: Goal) -> _Member:
        """Raises InputError for what could not be recovered or written."""
        record = shrink_record(self.start, self.data, self.options, self.output, self._partway(goal, 1))
        ours = self.output.resume and was_written(out, record, later=2 * self.recovery.stages - 1)
        member = _Member(self.state_dir / "recovery" / out.name, out, goal, self.output.overwrite or ours)
        refuse_early(self.start, self.recovery.teacher, out, self._run(member, self.recovery.stages))
        return member

    def cut(self, members: Sequence[_Member], stage: int) -> list[ShrinkResult]:
        """The first cut of all members from one measurement, a later one of each from what it was recovered to."""
        goals = [{member.cut(stage): self._partway(member.goal, stage)} for member in members]
        output = replace(self.output, half=False, overwrite=True)
        if stage == 1:
            every = {folder: goal for one in goals for folder, goal in one.items()}
            return shrink(self.start, every, self.data, self.options, output, self.story)
        results = []
        for member, goal in zip(members, goals, strict=True):
            before = member.recovered(stage - 1)
            own = replace(output, before=before, command_line=None, state_dir=member.cut(stage).parent)
            results += shrink(load_checkpoint(before), goal, self.data, self.options, own, self.story)
        return results

    def recover(self, member: _Member, stage: int) -> TrainingResult:
        last = stage == self.recovery.stages
        out = member.out if last else member.recovered(stage)
        self.story.tell(f"recovering {member.out}, cut {stage} of {self.recovery.stages}")
        return finetune(load_checkpoint(member.cut(stage)), out, self.recovery.teacher, self._run(member, stage))

    def _partway(self, goal: Goal, stage: int) -> Goal:
        return replace(goal, share=1 / (self.recovery.stages - stage + 1))

    def _run(self, member: _Member, stage: int) -> Run:
        last = stage == self.recovery.stages
        return Run(
            data=self.data,
            state_dir=member.cut(stage).parent,
            cache=self.state_dir / "cache",
            training=self.recovery.training,
            before=member.cut(stage),
            resume=self.output.resume,
            half=self.output.half and last,
            overwrite=member.overwrite or not last,
            story=self.story,
        )
