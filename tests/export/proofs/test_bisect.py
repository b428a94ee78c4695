"""`parity --bisect`: sound sides follow each other; a fault in one layer is named with its tensor."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from densepack_export.proofs.bisect import FLOOR, Point, bisect, departure, open_side
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import pack
from densepack_runtime.bundle import Bundle
from densepack_runtime.parity.climb import ParityRun
from densepack_runtime.parity.ladder import bundle_run
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path
from tests.command_line import CommandLine


@pytest.fixture(scope="module")
def bundle(default_bundle: Path) -> Bundle:
    return Bundle.open(default_bundle)


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> ParityRun:
    return bundle_run(bundle, read_squad(sample_squad_path(), limit=12), "sample")


def plant(bundle: Bundle, tmp_path: Path, graph: str, weight: str, factor: float) -> Path:
    """A copy of one of the bundle's graphs with one matrix scaled."""
    model = onnx.load(bundle.folder / graph)
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == weight]
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    path = tmp_path / "planted.onnx"
    onnx.save(model, path)
    return path


def compared(bundle: Bundle, run: ParityRun, left: str, right: str, module: object = None) -> list[Point]:
    with ExitStack() as opened:
        reference, other = (open_side(name, bundle, opened, module) for name in (left, right))
        return bisect(reference, other, next(run.batches()))


@pytest.mark.parametrize(("left", "right"), [("fp32", "fp16"), ("fp32", "fused"), ("fp16", "fused")])
def test_sound_graphs_follow_each_other(bundle: Bundle, run: ParityRun, left: str, right: str) -> None:
    points = compared(bundle, run, left, right)
    assert departure(points) is None
    # embeddings, six layers with eight points each, the logits
    assert len(points) == 1 + 6 * 8 + 1
    assert points[0].name == "/embeddings/norm"


def test_pytorch_follows_the_graph(bundle: Bundle, run: ParityRun, default_checkpoint: Path) -> None:
    points = compared(bundle, run, "torch", "fp32", pack(load_checkpoint(default_checkpoint)))
    assert departure(points) is None
    assert max(point.error for point in points) < 1e-5
    assert len(points) == 50


@pytest.mark.parametrize(
    ("graph", "left", "factor"), [("model.onnx", "fp32", 1.01), ("model.fp16.onnx", "fp32", 1.1)], ids=["fp32", "fp16"]
)
@pytest.mark.parametrize(
    ("weight", "point"),
    [
        ("layer.3.ffn.output.weight.transposed", "/layer.3/ffn/output"),
        ("layer.2.attention.value.weight.transposed", "/layer.2/attention/value"),
    ],
)
def test_a_planted_fault_is_named(
    bundle: Bundle, run: ParityRun, tmp_path: Path, graph: str, left: str, factor: float, weight: str, point: str
) -> None:
    planted = plant(bundle, tmp_path, graph, weight, factor)
    found = departure(compared(bundle, run, left, str(planted)))
    assert found is not None
    assert found.name == point
    assert found.error > 8 * FLOOR["fp32"]


def test_not_a_number_is_a_departure() -> None:
    assert Point("/layer.0/ffn/output", float("nan"), 1e-3).leaves
    assert not Point("/layer.0/ffn/output", 1e-3, 1e-3).leaves
    assert np.isfinite(FLOOR["fp16"])


def test_on_the_command_line(densepack: CommandLine, bundle: Bundle, tmp_path: Path) -> None:
    good = densepack("parity", str(bundle.folder), "--bisect", "fp32,fp16", "--limit", "4")
    assert good.code == 0
    assert "follows fp32 through all 50 points" in good.err
    planted = plant(bundle, tmp_path, "model.fp16.onnx", "layer.3.ffn.output.weight.transposed", 1.5)
    bad = densepack("parity", str(bundle.folder), "--bisect", f"fp32,{planted}", "--limit", "4")
    assert bad.code == 1
    assert "leaves the trend" in bad.out
    assert "error: planted.onnx leaves fp32 at /layer.3/ffn/output: relative error" in bad.err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("fp32", "two sides are compared, separated by a comma, got 'fp32'"),
        ("fp32,nothing", "unknown side 'nothing': give fp32, fp16, fused, plan, torch, or an ONNX file"),
        ("torch,fp32", "the side torch needs the checkpoint: pass --checkpoint"),
        ("fp32,plan", "the side plan needs an NVIDIA GPU, and there is none here"),
    ],
)
def test_wrong_sides(densepack: CommandLine, bundle: Bundle, asked: str, message: str) -> None:
    done = densepack("parity", str(bundle.folder), "--bisect", asked, "--limit", "4")
    assert done.code == 1
    assert message in done.err
