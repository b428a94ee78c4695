"""The graph that plans are built from: fused attention answers like the written-out form, and builds or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from densepack_export.graphs.fused_attention import fused_attention_bytes, with_fused_attention, with_square_mask
from densepack_export.graphs.onnx_export import export_onnx, random_batch
from densepack_export.plans.builder import PlanSettings, build_plan
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import ExportError
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.session import Precision
from densepack_runtime.sessions.shapes import bucket_profiles
from densepack_runtime.structure import LayerStructure, Structure
from tests.export.conftest import PRECISIONS, ExportedBy, random_module

# The same products, in float32 on a CPU, in another order of summation.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "fp16": 2e-2}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (7, 3), (2, 128)])
def test_fused_attention_answers_the_same(
    exported: ExportedBy, tmp_path: Path, precision: Precision, shape: tuple[int, int]
) -> None:
    made = exported("gelu", precision)
    fused = tmp_path / "fused.onnx"
    ir.save(with_square_mask(with_fused_attention(ir.load(made.path))), fused)
    onnx.checker.check_model(str(fused), full_check=True)
    batch = random_batch(made.module.structure, *shape)
    real = batch.attention_mask.astype(bool)
    with OnnxRuntimeSession(made.path) as plain, OnnxRuntimeSession(fused) as session:
        expected, found = plain.run(batch), session.run(batch)
    assert np.abs(found.start - expected.start)[real].max() < TOLERANCE[precision]
    assert np.abs(found.end - expected.end)[real].max() < TOLERANCE[precision]


def test_every_attention_is_replaced_and_nothing_else(exported: ExportedBy) -> None:
    path = exported("gelu", "fp16").path
    before, after = onnx.load(path), onnx.load_from_string(fused_attention_bytes(path))
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    heads = sum(node.op_type == "Softmax" for node in before.graph.node)
    assert kinds.count("Attention") == heads == 2
    assert "Softmax" not in kinds
    assert kinds.count("MatMul") == sum(node.op_type == "MatMul" for node in before.graph.node) - 2 * heads
    assert kinds.count("LayerNormalization") == sum(node.op_type == "LayerNormalization" for node in before.graph.node)
    assert {tensor.name for tensor in after.graph.initializer if tensor.name.startswith("layer.")} == {
        tensor.name for tensor in before.graph.initializer if tensor.name.startswith("layer.")
    }


def test_a_model_without_attention_is_left_alone(tmp_path: Path) -> None:
    layers = (LayerStructure(heads=(), ffn_units=(1, 2), ffn_width=2),)
    path = tmp_path / "model.onnx"
    export_onnx(random_module(Structure(1000, 512, 2, 32, 4, 48, layers)), path, precision="fp16")
    model = onnx.load_from_string(fused_attention_bytes(path))
    assert all(node.op_type != "Attention" for node in model.graph.node)


def test_a_foreign_attention_is_refused(exported: ExportedBy, tmp_path: Path) -> None:
    model = ir.load(exported("gelu", "fp16").path)
    [softmax, _] = [node for node in model.graph if node.op_type == "Softmax"]
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    softmax.replace_input_with(0, norm.outputs[0])
    with pytest.raises(
        ExportError, match=r"/layer\.0/attention/Softmax is not as densepack exports it: .* Add is expe"
    ):
        with_fused_attention(model)


@pytest.mark.parametrize("max_batch", [1, 2, 8, 32])
def test_fused_attention_builds_for_every_batch(tmp_path: Path, default_bundle: Path, max_batch: int) -> None:
    """A boolean mask fails here for batches of at most 2 and 8 (TensorRT for RTX 1.7.1)."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'densepack[rtx]'")
    graph = Bundle.open(default_bundle).graph("fp16")
    profiles = bucket_profiles((384,), max_batch, max_length=384)
    built = build_plan(graph, tmp_path / "plan", PlanSettings(), profiles)
    assert built.entry.proof.attention.startswith("6 fused")


@pytest.mark.parametrize("head_size", [16, 32, 64])
def test_fused_attention_builds_for_every_gpu(tmp_path: Path, head_size: int) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'densepack[rtx]'")
    layers = (
        LayerStructure(heads=(1, 3), ffn_units=tuple(range(17)), ffn_width=17),
        LayerStructure(heads=(), ffn_units=tuple(range(5)), ffn_width=5),
        LayerStructure(heads=(0, 1, 2), ffn_units=(), ffn_width=0),
    )
    path = tmp_path / "model.onnx"
    export_onnx(random_module(Structure(1000, 512, 2, 4 * head_size, 4, 48, layers)), path, precision="fp16")
    built = build_plan(path, tmp_path / "plan", PlanSettings())
    assert built.entry.proof.attention == "2 fused (IAttention: one kernel, or the build fails)"
    assert built.entry.proof.half_products == built.entry.proof.products == 15
    assert built.entry.proof.float32.keys() == {"NORMALIZATION", "CAST", "ELEMENTWISE", "GATHER"}
