"""The PyTorch end of the parity ladder: rung 0 is transformers' own module at full size, then everything made from it.

    report = climb_from_checkpoint(bundle, bundle_run(bundle, dataset, "dev-v1.1.json"), load_checkpoint("checkpoint/"))

`densepack_runtime.parity.climb` compares and judges; this module only brings the sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from torch import nn

from densepack_export.graphs.fused_attention import with_fused_attention, with_square_mask
from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.reference import reference_module
from densepack_models.torch_session import TorchSession
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import CheckpointError
from densepack_runtime.parity.climb import ParityRun, Rung, climb
from densepack_runtime.parity.ladder import open_rungs, with_corners
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, Precision

# The module in torch.float16 is slow on a CPU; so many windows show overflow and gross rounding. ONNX Runtime computes
# float16 graphs in float32 there, which is why this rung exists at all.
HALF_MODULE_WINDOWS = 64


def climb_from_checkpoint(
    bundle: Bundle,
    run: ParityRun,
    checkpoint: Checkpoint,
    packed: PackedBertForQuestionAnswering | None = None,
    *,
    options: SessionOptions = DEFAULT,
    on_reference: Callable[[Batch, Logits], None] | None = None,
) -> ParityReport:
    """Compare every rung with transformers on all windows, and the float16 module on some of them.

    `packed` is made from the checkpoint when it is not given. Raises CheckpointError when the checkpoint is not the
    one that the bundle was built from.
    """
    _check_same_weights(bundle, checkpoint)
    packed = pack(checkpoint) if packed is None else packed
    reference = reference_module(checkpoint)
    with ExitStack() as opened:
        rungs = [
            _torch_rung(opened, "transformers", reference, options),
            _torch_rung(opened, "packed PyTorch", packed, options),
            *open_rungs(bundle, opened, options),
        ]
        if torch.cuda.is_available():
            half = opened.enter_context(TorchSession(packed.typed_fp16(), device="cuda"))
            rungs.append(Rung("packed PyTorch float16, CUDA", half, "fp16"))
        report = climb(run, rungs, on_reference=on_reference)
    part = part_of(run, HALF_MODULE_WINDOWS)
    note = f"on {len(part.windows)} of {len(run.windows)} windows"
    with ExitStack() as opened:  # the other sessions are closed by now: their memory serves this one
        rungs = [
            _torch_rung(opened, "transformers", reference, options),
            _torch_rung(opened, "packed PyTorch float16", packed.typed_fp16(), options, "fp16", note),
            _fused_rung(opened, bundle, note, options),
        ]
        report = report.joined(climb(part, rungs))
    return with_corners(bundle, run, report)


def _torch_rung(
    opened: ExitStack,
    name: str,
    module: nn.Module,
    options: SessionOptions,
    precision: Precision = "fp32",
    note: str = "",
) -> Rung:
    session = opened.enter_context(TorchSession(module, options=options))
    return Rung(name, session, precision, note)


def _fused_rung(opened: ExitStack, bundle: Bundle, note: str, options: SessionOptions) -> Rung:
    """The graph that plans are built from, with its fused attention, in ONNX Runtime."""
    path = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-"))) / "fused.onnx"
    ir.save(with_square_mask(with_fused_attention(ir.load(bundle.graph("fp16")))), path)
    session = opened.enter_context(OnnxRuntimeSession(path, options))
    return Rung("ONNX FP16, fused attention", session, "fp16", note)


def _check_same_weights(bundle: Bundle, checkpoint: Checkpoint) -> None:
    expected = bundle.manifest.model
    if checkpoint.sha256 != expected.sha256:
        raise CheckpointError(
            f"the bundle was built from other weights (sha256 {expected.sha256[:12]}…, {checkpoint.source} has "
            f"{checkpoint.sha256[:12]}…): pass the checkpoint {expected.name} that it came from"
        )


def part_of(run: ParityRun, least_windows: int) -> ParityRun:
    """Questions spread evenly over the dataset, with all their windows: `least_windows` or little more in all."""
    total = len(run.dataset.questions)
    windows_of = Counter(window.example for window in run.windows)
    count = min(total, -(-total * least_windows // max(1, len(run.windows))))
    chosen = _spread(count, total)
    while count < total and sum(windows_of[example] for example in chosen) < least_windows:
        count += 1
        chosen = _spread(count, total)
    places = {example: place for place, example in enumerate(chosen)}
    dataset = replace(run.dataset, questions=tuple(run.dataset.questions[example] for example in chosen))
    windows = [replace(window, example=places[window.example]) for window in run.windows if window.example in places]
    return replace(run, dataset=dataset, windows=windows, on_windows=lambda _: None)


def _spread(count: int, total: int) -> list[int]:
    """`count` numbers below `total`, evenly spread."""
    return [place * total // count for place in range(count)]
