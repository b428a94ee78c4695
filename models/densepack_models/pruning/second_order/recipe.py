"""`densepack shrink`: measure a model once, and write it at one size or at several.

    goals = {Path("small"): Goal("density", 0.3)}
    [result] = shrink(load_checkpoint("model/"), goals, read_squad("train.json"), ShrinkOptions())

Nothing is trained. The result is in the published format, and packs exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.writer import strangers_in
from densepack_models.pruning.backward import DrawnSpans, Spans, answers
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.devices import AUTOCAST, chosen_device
from densepack_models.pruning.options import ShrinkOptions
from densepack_models.pruning.publishing import published, refuse_longer_windows, run_record, write_record
from densepack_models.pruning.second_order.budgets import Goal, Prices, Timing, refuse_unreachable
from densepack_models.pruning.second_order.cut import Plan, Surgeon
from densepack_models.pruning.second_order.statistics import ProjectionStatistics, measure
from densepack_models.pruning.student import Student, plain_tensors, student_from_checkpoint
from densepack_models.pruning.training_data import TrainingWindows, describe_dropped, make_windows
from densepack_models.pruning.training_log import Story
from densepack_runtime.errors import InputError
from densepack_runtime.host.folders import refuse_new_folder
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower

# A model is good that takes from so much to all of the time that it may; what is aimed at between, and how often.
_GOOD, _AIM, _TRIES = 0.96, 0.98, 5


@dataclass(frozen=True)
class Output:
    """How results are written. `half` is float16; `before` is the folder that the model was read from: the record of
    a run that made it goes on in those of this one. `command_line` is for the record.
    """

    half: bool = False
    overwrite: bool = False
    before: Path | None = None
    command_line: str | None = None


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
    device = chosen_device(options)
    student = student_from_checkpoint(start)
    for folder in goals:
        refuse_new_folder(folder, strangers_in if output.overwrite else None)
    prices = {folder: goal.prices(student.structure) for folder, goal in goals.items()}
    for folder, goal in goals.items():
        refuse_unreachable(student.structure, goal, prices[folder])
    for note in start.notes:
        story.tell(note)
    windows = calibration_windows(start, data, options, story)
    story.tell(f"measuring {start.source} on {len(windows):,} windows, on the {device.upper()}")
    spans: Spans = answers
    if data.is_test_set:
        story.tell("the data has no answers: the loss is that of spans drawn from what the model itself says")
        spans = DrawnSpans(len(windows), seed=options.seed)
    statistics = _measured(student.to(device), windows, spans, options, story)
    story.tell(f"ordering what can go from {len(statistics)} projections")
    with story.progress("ordering what can go", len(statistics)) as advance:
        surgeon = Surgeon(student.structure, plain_tensors(student), statistics, advance)
    record = _record(start, data, options, output) | {"windows": len(windows)}
    results = []
    for folder, goal in goals.items():
        plan, timing = _fitting_plan(surgeon, goal, prices[folder])
        if timing is not None:
            story.tell(f"{timing.ms:.3g} ms, {timing.speedup:.3g} times as fast as the dense model")
        results.append(_write(start, folder, surgeon, plan, timing, record | {"budget": goal.as_dict()}, output))
    return results


def _fitting_plan(surgeon: Surgeon, goal: Goal, prices: Prices) -> tuple[Plan, Timing | None]:
    """The plan for a goal. Where that is a time, the whole model is timed, and the budget is corrected by what prices
    of single layers cannot tell until it takes what it may; of what was tried, the nearest.
    """
    structure = surgeon.whole
    limit = goal.limit(prices, structure)
    if goal.clock is None:
        return surgeon.plan(prices, limit), None
    tried: list[tuple[float, Plan, Timing]] = []
    for _ in range(_TRIES):
        plan = surgeon.plan(prices, limit)
        timing = goal.clock.timing(surgeon.structure(plan))
        excess = goal.excess(timing)
        tried.append((abs(math.log(excess / _AIM)), plan, timing))
        if _GOOD <= excess <= 1:
            break
        limit = int(limit * _AIM / excess)
    _, plan, timing = min(tried, key=lambda one: one[0])
    return plan, timing


def calibration_windows(start: Checkpoint, data: SquadDataset, options: ShrinkOptions, story: Story) -> TrainingWindows:
    """All windows of questions that are drawn from the data. Raises InputError when none of them can be used."""
    refuse_longer_windows(start, options.max_length)
    generator = np.random.Generator(np.random.PCG64(options.seed))
    drawn = generator.permutation(len(data.questions))[: options.questions]
    windower = Windower(start.tokenizer_json, max_length=options.max_length, doc_stride=options.doc_stride)
    windows = make_windows((data.questions[place] for place in drawn), windower, answered=not data.is_test_set)
    if not len(windows):
        raise InputError(
            f"none of {windows.questions} questions of the data can be used; {describe_dropped(windows.dropped)}"
        )
    if windows.dropped:
        story.tell(
            f"left out {len(windows.dropped)} of {windows.questions} questions; {describe_dropped(windows.dropped)}"
        )
    return windows


def _measured(
    student: Student, windows: TrainingWindows, spans: Spans, options: ShrinkOptions, story: Story
) -> dict[str, ProjectionStatistics]:
    batches = TrainingBatches(windows, token_budget=options.token_budget, seed=options.seed)

    def counted(advance: Any) -> Iterator[Mapping[str, Tensor]]:
        for place in range(len(batches)):
            yield batches[place]
            advance(1)

    with story.progress("measuring", len(batches)) as advance:
        return measure(student, counted(advance), spans=spans, autocast=AUTOCAST[options.precision])


def _record(start: Checkpoint, data: SquadDataset, options: ShrinkOptions, output: Output) -> dict[str, Any]:
    """What the result depends on, as plain data."""
    return run_record("shrink", output.command_line, start, data, output.before) | {
        "spans": "drawn" if data.is_test_set else "answers",
        "questions": min(options.questions, len(data.questions)),
        "steps": 0,  # of training
        "shrink": asdict(options),
    }


def _write(
    start: Checkpoint,
    folder: Path,
    surgeon: Surgeon,
    plan: Plan,
    timing: Timing | None,
    record: dict[str, Any],
    output: Output,
) -> ShrinkResult:
    cut = surgeon.cut(plan, start.config)
    with published(cut, folder, start, half=output.half, overwrite=output.overwrite) as written:
        structure = written.packed.structure
        result = ShrinkResult(
            out=folder,
            plan=plan,
            linear_density=structure.linear_density,
            heads=structure.heads_left,
            heads_total=structure.heads_total,
            parameters=structure.parameters,
            packing_difference=written.difference,
            timing=timing,
        )
        write_record(written.folder, record, result.as_dict())
    return result
