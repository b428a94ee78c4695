"""Graphs rewritten for AMX compute what they did, on every processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import densepack_runtime.sessions.openvino_session as session_module
import densepack_runtime.sessions.openvino_tiles as module
from densepack_runtime.bundle import Bundle
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.sessions.batching import pad_windows
from densepack_runtime.sessions.openvino_session import OpenVinoSession, import_openvino, openvino_precisions
from densepack_runtime.sessions.openvino_tiles import INSTRUCTION_SETS, TILE, fit_tiles, has_tiles
from densepack_runtime.sessions.session import ComputePrecision

pytest.importorskip("openvino", reason="openvino is not installed")

INTEL = "Intel(R) Xeon(R) Processor: fpu avx512_vnni amx_bf16 amx_tile amx_int8"


def model_of(bundle: Bundle) -> Any:
    return import_openvino().Core().read_model(str(bundle.graph("fp32")))


def logits(bundle: Bundle, precision: ComputePrecision) -> NDArray[np.float32]:
    batch = pad_windows(RecordedReference.load(bundle.path("reference.npz")).windows[:3])
    with OpenVinoSession(bundle.graph("fp32"), precision=precision) as session:
        found = session.run(batch)
    return np.stack([found.start, found.end])


def test_widths_become_multiples_and_keys_are_turned_by_their_product(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    layers = bundle.manifest.model.structure.layers
    assert any(layer.ffn_width % TILE for layer in layers)
    model = model_of(bundle)
    fit_tiles(import_openvino(), model)
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    for index, layer in enumerate(layers):
        if layer.ffn_width:
            width = nodes[f"/layer.{index}/ffn/intermediate/MatMul"].output(0).get_partial_shape()[-1].get_length()
            assert 0 <= width - layer.ffn_width < TILE
            assert width % TILE == 0
        if layer.heads:
            assert nodes[f"/layer.{index}/attention/scores/MatMul"].get_attributes()["transpose_b"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_logits(default_bundle: Path, monkeypatch: pytest.MonkeyPatch, precision: ComputePrecision) -> None:
    """In bfloat16 as sessions open it; the other one through a session that is told so, for every processor."""
    if precision not in openvino_precisions():
        pytest.skip(f"this processor does not multiply in {precision}")
    bundle = Bundle.open(default_bundle)
    monkeypatch.setattr(session_module, "has_tiles", lambda: False)
    wanted = logits(bundle, precision)
    monkeypatch.setattr(session_module, "has_tiles", lambda: True)
    if precision == "fp32":
        np.testing.assert_array_equal(logits(bundle, precision), wanted)  # FP32 has nothing to win
        monkeypatch.setattr(session_module, "_check_tensors", lambda model, _: fit_tiles(import_openvino(), model))
    np.testing.assert_allclose(logits(bundle, precision), wanted, atol=1e-4 if precision == "fp32" else 1e-3)


def test_keys_that_others_read_as_well_stay_turned(default_bundle: Path) -> None:
    openvino = import_openvino()
    model = model_of(Bundle.open(default_bundle))
    [scores] = [node for node in model.get_ops() if node.get_friendly_name() == "/layer.0/attention/scores/MatMul"]
    model.add_results([openvino.opset13.result(scores.input_value(1))])
    fit_tiles(openvino, model)
    [scores] = [node for node in model.get_ops() if node.get_friendly_name() == "/layer.0/attention/scores/MatMul"]
    assert not scores.get_attributes()["transpose_b"]


@pytest.mark.parametrize(
    ("features", "most", "tiles"),
    [
        (INTEL, None, True),
        (INTEL, "ALL", True),
        (INTEL, "avx512_core_amx", True),
        (INTEL, "AVX512_CORE_BF16", False),  # OpenVINO then has kernels of a processor without
        ("AMD EPYC: avx512_bf16 avx512_vnni", None, False),
        ("AMD EPYC: avx512_bf16 avx512_vnni", "AVX512_CORE_AMX", False),
    ],
)
def test_which_processors_have_tiles(
    monkeypatch: pytest.MonkeyPatch, features: str, most: str | None, tiles: bool
) -> None:
    monkeypatch.setattr(module, "processor_features", lambda: features)
    monkeypatch.delenv(INSTRUCTION_SETS, raising=False)
    if most is not None:
        monkeypatch.setenv(INSTRUCTION_SETS, most)
    assert has_tiles() is tiles
