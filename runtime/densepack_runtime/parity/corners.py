"""Proof of a saved plan where it can run: the recorded windows, and the corners of its profiles.

    for rung in check_plan(bundle, entry): rung.status

SQuAD's windows never meet the smallest, best and largest shape of a profile, where kernels are most likely to be wrong;
a profile that begins at 1x1 has given NaN (https://github.com/NVIDIA/TensorRT/issues/2340).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from densepack_runtime.backends import open_plan
from densepack_runtime.bundle import REFERENCE_NAME, Bundle
from densepack_runtime.parity.judgement import SpanComparison, Tolerance, default_tolerance, judge
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.parity.report import RungReport
from densepack_runtime.parity.tally import LogitTally
from densepack_runtime.question_answering.answers import SpanRules, best_spans
from densepack_runtime.sessions.batching import length_sorted_batches, pad_windows
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, ComputePrecision, Precision, Session, Window
from densepack_runtime.tensorrt_plans.record import PlanEntry

# Largest |Δlogit| at a corner. float16: what NVIDIA's own BERT samples allow (atol 1.5); answers are judged on SQuAD.
LARGEST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-2, "fp16": 1.5}


def check_plan(bundle: Bundle, entry: PlanEntry) -> list[RungReport]:
    """What can be proved without a SQuAD file: spans of the recorded windows, logits at the corners."""
    recorded = RecordedReference.load(bundle.path(REFERENCE_NAME))
    with open_plan(bundle, entry) as plan:
        windows = check_recorded(_name(entry), entry.precision, plan, recorded)
    return [windows, check_corners(bundle, entry, recorded.windows)]


def check_recorded(name: str, precision: ComputePrecision, session: Session, recorded: RecordedReference) -> RungReport:
    """A session on the recorded windows: same best span as PyTorch in each."""
    tally, same = LogitTally(), []
    for batch in length_sorted_batches(recorded.windows):
        logits, wanted = session.run(batch), recorded.logits_of(batch)
        tally.add(batch, logits, wanted)
        found, reference = best_spans(batch, logits, SpanRules()), best_spans(batch, wanted, SpanRules())
        same.append((found[0] == reference[0]) & (found[1] == reference[1]))
    agreement = np.concatenate(same)
    spans = SpanComparison(
        questions=len(agreement),
        span_agreement=100 * float(agreement.mean()),
        differing_spans=int((~agreement).sum()),
    )
    limits = default_tolerance(precision, len(agreement))
    least = limits.min_span_agreement or 100 - 100 / len(agreement)
    limits = Tolerance(max_abs_logit=limits.max_abs_logit, min_span_agreement=least)
    return judge(name, precision, tally.summary(), spans, limits, note="recorded windows", windows=len(agreement))


def check_corners(bundle: Bundle, entry: PlanEntry, windows: Sequence[Window], pad_id: int = 0) -> RungReport:
    """Every profile's corners, exactly in that shape (no buckets, no CUDA graphs), against the float32 graph."""
    shapes = sorted({shape for profile in entry.profiles for shape in profile.corners()})
    tally = LogitTally()
    with (
        OnnxRuntimeSession(bundle.graph("fp32")) as reference,
        open_plan(bundle, entry, SessionOptions(cuda_graphs=False)) as plan,
    ):
        for batch in corner_batches(windows, shapes, pad_id):
            tally.add(batch, plan.run(batch), reference.run(batch))
    told = ", ".join(f"{rows}x{length}" for rows, length in shapes)
    return judge(
        f"{_name(entry)}, corners",
        entry.precision,
        tally.summary(),
        SpanComparison(),
        Tolerance(max_abs_logit=LARGEST_DIFFERENCE[entry.precision]),
        note=f"against ONNX FP32 at {told}",
        windows=sum(rows for rows, _ in shapes),
    )


def corner_batches(windows: Sequence[Window], shapes: Sequence[tuple[int, int]], pad_id: int = 0) -> Iterator[Batch]:
    """A batch of every (batch, length): windows, longest first, padded; cut off where all are longer."""
    longest_first = sorted(windows, key=lambda window: window.length, reverse=True)
    for rows, length in shapes:
        fitting = [window for window in longest_first if window.length <= length] or [cut(longest_first[-1], length)]
        chosen = [fitting[index % len(fitting)] for index in range(rows)]
        yield pad_windows(chosen, pad_id=pad_id, length=length)


def cut(window: Window, length: int) -> Window:
    """The first tokens of a window, for shapes that no real window fits. It answers nothing."""
    kept = min(window.context_start, length)
    return Window(
        example=window.example,
        token_ids=window.token_ids[:length],
        context_start=kept,
        offsets=np.zeros((max(0, length - 1 - kept), 2), dtype=np.int32),
    )


def _name(entry: PlanEntry) -> str:
    return f"plan {Path(entry.plan).stem}"
