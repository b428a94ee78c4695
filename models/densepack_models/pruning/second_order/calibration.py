"""Measuring a model on questions, in a way that goes on where it was killed.

windows = calibration_windows(start, data, options, story)
statistics = measured(student, windows, spans, options, story, state)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from densepack_models.formats.checkpoint import Checkpoint, refuse_longer_windows
from densepack_models.pruning.backward import Spans
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.devices import AUTOCAST
from densepack_models.pruning.options import ShrinkOptions
from densepack_models.pruning.second_order.statistics import COUNTS, Measurement, ProjectionStatistics
from densepack_models.pruning.student import Student
from densepack_models.pruning.training_data import TrainingWindows, describe_dropped, make_windows
from densepack_runtime.errors import InputError
from densepack_runtime.host.files import new_file
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower

_SUMS = "sums.safetensors"


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


def measured(
    student: Student, windows: TrainingWindows, spans: Spans, options: ShrinkOptions, story: Story, state: Path | None
) -> dict[str, ProjectionStatistics]:
    """The statistics of all windows. The sums go into the folder `state` every few batches, and on from there."""
    batches = TrainingBatches(windows, token_budget=options.token_budget, seed=options.seed)
    measurement, kept = Measurement(student), state and state / _SUMS
    if kept is not None and kept.is_file():
        measurement.load_state_dict(load_file(kept))
        story.tell(f"going on from batch {measurement.batches} of {len(batches)}")
    with story.bar("measuring", len(batches)) as advance:
        advance(measurement.batches)
        left = (batches[place] for place in range(measurement.batches, len(batches)))
        for _ in measurement.passes(student, left, spans=spans, autocast=AUTOCAST[options.precision]):
            advance(1)
            if kept is not None and (
                measurement.batches % options.save_every == 0 or measurement.batches == len(batches)
            ):
                _keep(measurement, kept)
    return measurement.statistics()


def batches_kept(state: Path) -> int | None:
    """How many batches the sums in a folder are of; None where there are none."""
    if not (state / _SUMS).is_file():
        return None
    with safe_open(state / _SUMS, framework="pt") as file:
        return int(file.get_tensor(COUNTS)[0])


def _keep(measurement: Measurement, path: Path) -> None:
    with new_file(path) as temporary:
        save_file({name: tensor.cpu() for name, tensor in measurement.state_dict().items()}, temporary)
