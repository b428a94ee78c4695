"""`densepack shrink`: measure a model once, and write it at one size or at several.

    goals = {Path("small"): Goal("density", 0.3)}
    [result] = shrink(load_checkpoint("model/"), goals, read_squad("train.json"), ShrinkOptions())

Nothing is trained. The result is in the published format, and packs exactly.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.json_files import read_json_object
from densepack_models.formats.writer import LOG, RECORD, strangers_in
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.pruning.backward import DrawnSpans, Spans, answers
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.devices import AUTOCAST, chosen_device
from densepack_models.pruning.options import ShrinkOptions
from densepack_models.pruning.publishing import published, run_record, write_record
from densepack_models.pruning.run_state import differences, settle_state
from densepack_models.pruning.second_order.budgets import Goal, Prices, Timing, refuse_unreachable
from densepack_models.pruning.second_order.calibration import batches_kept, calibration_windows, measured
from densepack_models.pruning.second_order.cut import Plan, Surgeon
from densepack_models.pruning.second_order.refitting import refit_layerwise
from densepack_models.pruning.student import Student, plain_tensors, student_from_checkpoint
from densepack_models.pruning.training_data import TrainingWindows
from densepack_runtime.host.allocator import release_freed_memory
from densepack_runtime.host.folders import refuse_new_folder
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.structure import Structure

# A model is good that takes from so much to all of the time that it may; what is aimed at between, and how often.
_GOOD, _AIM, _TRIES = 0.96, 0.98, 5


@dataclass(frozen=True)
class Output:
    """How results are written. `half` is float16; `before` is the folder that the model was read from: the record of
    a run that made it goes on in those of this one. `command_line` is for the record. `state_dir` keeps what was
    measured and worked out; without one, nothing is kept. With `resume` a run goes on from there, and replaces what it
    has written.
    """

    half: bool = False
    overwrite: bool = False
    before: Path | None = None
    command_line: str | None = None
    state_dir: Path | None = None
    resume: bool = False

    @property
    def state(self) -> Path | None:
        return self.state_dir and self.state_dir / "shrink"


@dataclass(frozen=True, slots=True)
class ShrinkResult:
    """One model that was written. `packing_difference` is the largest |Δlogit| between it at full size and packed;
    `timing` is there where a speed or a time was asked for.
    """

    out: Path
    plan: Plan
    linear_density: float
    heads: int
    heads_total: int
    parameters: int
    packing_difference: float
    timing: Timing | None = None

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self) | {"out": str(self.out), "plan": self.plan.as_dict()}
        return {name: value for name, value in told.items() if value is not None}

    def rows(self) -> list[tuple[str, ...]]:
        """Layer, heads, FFN units and the predicted losses of both, as text; the sums last."""
        layers = self.plan.layers
        counts = [(len(layer.heads), len(layer.units)) for layer in layers]
        losses = [(layer.attention_loss, layer.ffn_loss) for layer in layers]
        names = [*map(str, range(len(layers))), "all"]
        counts.append((sum(heads for heads, _ in counts), sum(units for _, units in counts)))
        losses.append((sum(attention for attention, _ in losses), sum(ffn for _, ffn in losses)))
        return [
            (name, str(heads), str(units), f"{attention:.4f}", f"{ffn:.4f}")
            for name, (heads, units), (attention, ffn) in zip(names, counts, losses, strict=True)
        ]


def shrink(
    start: Checkpoint,
    goals: Mapping[Path, Goal],
    data: SquadDataset,
    options: ShrinkOptions,
    output: Output | None = None,
    story: Story | None = None,
) -> list[ShrinkResult]:
    """Write `start` to every folder of `goals`, as small as its goal. Raises InputError before anything is measured on
    the data for a goal that cannot be reached and for a folder that may not be replaced.
    """
    output, story = output or Output(), story or Story.silent()
    chosen_device(options)
    student = student_from_checkpoint(start)
    record = _record(start, data, options, output)
    targets = [
        _target(folder, goal, student.structure, _told(record, goal, options), output) for folder, goal in goals.items()
    ]
    if output.state is not None:
        batches = batches_kept(output.state)
        done = None if batches is None else f"batch {batches}"
        settle_state(output.state, record, "measurement", done, resume=output.resume)
    for note in start.notes:
        story.tell(note)
    windows = calibration_windows(start, data, options, story)
    surgeon = _surgeon(start, student, data, windows, options, output.state, story)
    planned = [_planned(surgeon, target) for target in targets]
    for each in planned:
        if (timing := each.timing) is not None:
            story.tell(
                f"{each.target.folder}: {timing.ms:.3g} ms, {timing.speedup:.3g} times as fast as the dense model"
            )
    family = {"family": [each.row(surgeon) for each in planned]} if len(planned) > 1 else {}
    return [
        _write(start, each, _fitted(start, surgeon, each.plan, windows, options, story), output, family)
        for each in planned
    ]


@dataclass(frozen=True)
class _Target:
    """One model that shall be written."""

    folder: Path
    goal: Goal
    prices: Prices
    record: dict[str, Any]
    overwrite: bool


@dataclass(frozen=True)
class _Planned:
    """What a target will be."""

    target: _Target
    plan: Plan
    timing: Timing | None = None

    def row(self, surgeon: Surgeon) -> dict[str, Any]:
        """Of the table of a family."""
        structure = surgeon.structure(self.plan)
        return {
            "name": self.target.folder.name,
            "linear_density": structure.linear_density,
            "heads": structure.heads_left,
            "predicted_loss": self.plan.loss,
            "speedup": self.timing and self.timing.speedup,
        }


def _target(folder: Path, goal: Goal, structure: Structure, record: dict[str, Any], output: Output) -> _Target:
    """Raises InputError for a goal that cannot be reached and for a folder that may not be replaced."""
    overwrite = output.overwrite or (output.resume and was_written(folder, record))
    refuse_new_folder(folder, strangers_in if overwrite else None)
    prices = goal.prices(structure)
    refuse_unreachable(structure, goal, prices)
    return _Target(folder, goal, prices, record, overwrite)


def _surgeon(
    start: Checkpoint,
    student: Student,
    data: SquadDataset,
    windows: TrainingWindows,
    options: ShrinkOptions,
    state: Path | None,
    story: Story,
) -> Surgeon:
    """Measure the student on the data, and order what can go from it."""
    device = chosen_device(options)
    spans: Spans = answers
    if data.is_test_set:
        story.tell("the data has no answers: the loss is that of spans drawn from what the model itself says")
        spans = DrawnSpans(len(windows), seed=options.seed)
    story.tell(f"measuring {start.source} on {len(windows):,} windows, on the {device.upper()}")
    statistics = measured(student.to(device), windows, spans, options, story, state)
    story.tell(f"ordering what can go from {len(statistics)} projections")
    with story.bar("ordering what can go", len(statistics)) as advance:
        return Surgeon(student.structure, plain_tensors(student), statistics, advance, state)


def _fitted(
    start: Checkpoint, surgeon: Surgeon, plan: Plan, windows: TrainingWindows, options: ShrinkOptions, story: Story
) -> PackedBertForQuestionAnswering:
    """What stays, with its weights fitted for it."""
    cut = surgeon.cut(plan, start.config)
    if options.refit == "once":
        return cut
    device = chosen_device(options)
    batches = TrainingBatches(windows, token_budget=options.token_budget, seed=options.seed)
    release_freed_memory()  # there is room for all hidden states where measuring left holes
    with story.bar("fitting what stays", len(cut.layer)) as advance:
        refit_layerwise(
            surgeon.uncut(start.config).to(device),
            cut.to(device),
            (batches[place] for place in range(len(batches))),
            autocast=AUTOCAST[options.precision],
            advance=advance,
        )
    return cut.cpu()


def shrink_record(
    start: Checkpoint, data: SquadDataset, options: ShrinkOptions, output: Output, goal: Goal
) -> dict[str, Any]:
    """What a result depends on, as plain data."""
    return _told(_record(start, data, options, output), goal, options)


def _told(record: dict[str, Any], goal: Goal, options: ShrinkOptions) -> dict[str, Any]:
    """The record of a measurement with what was done with it."""
    return record | {"budget": goal.as_dict(), "refit": options.refit}


def was_written(folder: Path, record: dict[str, Any], *, later: int = 0) -> bool:
    """Whether what is in a folder is what the record tells of, after so many `later` stages."""
    path = folder / RECORD
    written = read_json_object(path, "it says how it was made") if path.is_file() else None
    for _ in range(later):
        written = written and written.get("before")
    return written is not None and not any(differences(written | {"result": None}, json.loads(json.dumps(record))))


def _planned(surgeon: Surgeon, target: _Target) -> _Planned:
    """The plan for a target. Where that is a time, the whole model is timed, and the budget is corrected by what prices
    of single layers cannot tell until it takes what it may; of what was tried, the nearest.
    """
    goal, prices = target.goal, target.prices
    limit = goal.limit(prices, surgeon.whole)
    if not goal.is_timed or goal.share < 1:
        return _Planned(target, surgeon.plan(prices, limit))
    tried: list[tuple[float, _Planned]] = []
    for _ in range(_TRIES):
        plan = surgeon.plan(prices, limit)
        timing = goal.session.timing(surgeon.structure(plan))
        excess = goal.excess(timing)
        tried.append((abs(math.log(excess / _AIM)), _Planned(target, plan, timing)))
        if _GOOD <= excess <= 1:
            break
        limit = int(limit * _AIM / excess)
    return min(tried, key=lambda one: one[0])[1]


def _record(start: Checkpoint, data: SquadDataset, options: ShrinkOptions, output: Output) -> dict[str, Any]:
    """What the measurement depends on, as plain data."""
    return run_record("shrink", output.command_line, start, data, output.before) | {
        "spans": "drawn" if data.is_test_set else "answers",
        "questions": min(options.questions, len(data.questions)),
        "steps": 0,  # of training
        "shrink": {name: value for name, value in asdict(options).items() if name != "refit"},
    }


def _write(
    start: Checkpoint,
    planned: _Planned,
    cut: PackedBertForQuestionAnswering,
    output: Output,
    family: dict[str, Any],
) -> ShrinkResult:
    target = planned.target
    with published(cut, target.folder, start, half=output.half, overwrite=target.overwrite) as written:
        structure = written.packed.structure
        result = ShrinkResult(
            out=target.folder,
            plan=planned.plan,
            linear_density=structure.linear_density,
            heads=structure.heads_left,
            heads_total=structure.heads_total,
            parameters=structure.parameters,
            packing_difference=written.difference,
            timing=planned.timing,
        )
        write_record(written.folder, target.record, result.as_dict() | family)
        if output.before is not None and (output.before / LOG).is_file():
            shutil.copyfile(output.before / LOG, written.folder / LOG)
    return result
