"""INT8 with fixed scales: the ranges that a bundle holds, and the products that OpenVINO makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import densepack_runtime.sessions.openvino_session as module
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BundleError
from densepack_runtime.host.files import sha256_of
from densepack_runtime.sessions.int8_ranges import INT8_RANGES_NAME, Int8Ranges, product_name
from densepack_runtime.sessions.openvino_int8 import STEPS, in_steps, quantised, with_fixed_scales
from densepack_runtime.sessions.openvino_tiles import TILE
from tests.runtime.sessions.test_onnxruntime_session import save_graph

QUERY, OUTPUT = "layer.0.attention.query", "layer.0.ffn.output"
INPUTS, OUTPUTS = 96, 40


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    kept = {QUERY: np.array([0.5, 3], np.float32), OUTPUT: np.full(7, 1e-4, np.float32)}
    Int8Ranges(kept).save(tmp_path / INT8_RANGES_NAME)
    read = Int8Ranges.read(tmp_path / INT8_RANGES_NAME)
    assert list(read) == list(kept)
    for name, ranges in kept.items():
        np.testing.assert_array_equal(read[name], ranges)
    Int8Ranges({}).save(tmp_path / "none.npz")
    assert len(Int8Ranges.read(tmp_path / "none.npz")) == 0


@pytest.mark.parametrize("bad", [[1.0, 0.0], [1.0, -2.0], [np.nan], [np.inf], [[1.0]]])
def test_what_cannot_be_divided_by_is_no_range(bad: list[float]) -> None:
    with pytest.raises(BundleError, match=f"the INT8 ranges of {QUERY} are not finite numbers above 0"):
        Int8Ranges({QUERY: np.array(bad, np.float32)})


@pytest.mark.parametrize("content", [b"", b"foreign", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / INT8_RANGES_NAME
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{INT8_RANGES_NAME} holds no INT8 ranges .* build it again"):
        Int8Ranges.read(path)


def test_a_file_with_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / INT8_RANGES_NAME
    np.savez(path, pickled=np.array([print], dtype=object))
    with pytest.raises(BundleError, match="holds no INT8 ranges"):
        Int8Ranges.read(path)


@pytest.mark.parametrize(
    ("node", "product"),
    [("/layer.0/attention/query/MatMul", QUERY), ("/layer.0/ffn/output/MatMul", OUTPUT), ("/Sub", ""), ("MatMul", "")],
)
def test_products_are_called_after_their_modules(node: str, product: str) -> None:
    assert product_name(node) == product


def graph_of(openvino: Any, weights: dict[str, NDArray[np.float32]]) -> Any:
    """Products of one input with these weights, [outputs, inputs] each, named as our graphs name them."""
    ops = openvino.opset13
    factor = ops.parameter([-1, -1, INPUTS], np.float32)
    products = []
    for name, values in weights.items():
        product = ops.matmul(factor, ops.constant(np.ascontiguousarray(values.T)), False, False)
        product.set_friendly_name(f"/{name.replace('.', '/')}/MatMul".replace("layer/", "layer."))
        products.append(product)
    return openvino.Model(products, [factor])


def run(openvino: Any, model: Any, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled([values]).values())


def test_openvino_computes_what_the_error_was_measured_with() -> None:
    """`int8_error` computes in numpy what a session computes in INT8, on whatever this processor has for it."""
    openvino = module.import_openvino()
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((OUTPUTS, INPUTS)).astype(np.float32) for name in (QUERY, OUTPUT)}
    ranges = rng.uniform(0.1, 30, INPUTS).astype(np.float32)
    values = (rng.uniform(-1.2, 1.2, (2, 9, INPUTS)) * ranges).astype(np.float32)  # some of them beyond
    model = graph_of(openvino, weights)
    assert with_fixed_scales(openvino, model, {QUERY: ranges}) == 1
    found, untouched = run(openvino, model, values)
    steps, scales = quantised(weights[QUERY] * ranges)
    wanted = in_steps(values / ranges) @ (steps * scales).T
    # Where a value lies between two steps, another order of float32 may round it to the other one.
    step = np.abs(steps * scales).max() / STEPS
    assert np.abs(found - wanted).max() <= 2 * step
    exact = values @ weights[QUERY].T
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(found - exact)
    assert np.abs(untouched - values @ weights[OUTPUT].T).max() < 1e-3


def test_products_of_one_input_share_what_becomes_of_it() -> None:
    openvino = module.import_openvino()
    weights = dict.fromkeys((QUERY, "layer.0.attention.key", OUTPUT), np.ones((OUTPUTS, INPUTS), np.float32))
    model = graph_of(openvino, weights)
    alike, other = np.ones(INPUTS, np.float32), np.full(INPUTS, 2, np.float32)
    assert with_fixed_scales(openvino, model, {**dict.fromkeys(weights, alike), OUTPUT: other}) == len(weights)
    assert [node.get_type_name() for node in model.get_ops()].count("FakeQuantize") == 2


def test_inputs_that_fill_tiles_need_no_range() -> None:
    openvino = module.import_openvino()
    weights = np.random.default_rng(1).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    weights[:, -6:] = 0
    values = np.random.default_rng(2).uniform(-1, 1, (1, 5, INPUTS)).astype(np.float32)
    short, whole = (graph_of(openvino, {QUERY: weights}) for _ in range(2))
    with_fixed_scales(openvino, short, {QUERY: np.ones(INPUTS - 6, np.float32)})
    with_fixed_scales(openvino, whole, {QUERY: np.ones(INPUTS, np.float32)})
    np.testing.assert_array_equal(run(openvino, short, values), run(openvino, whole, values))


def test_a_product_right_behind_another_one_is_left_alone() -> None:
    """As after ELECTRA's projection of embeddings."""
    openvino = module.import_openvino()
    ops, rng = openvino.opset13, np.random.default_rng(3)
    first, second = (rng.standard_normal((INPUTS, INPUTS)).astype(np.float32) for _ in range(2))
    factor = ops.parameter([-1, -1, INPUTS], np.float32)
    projected = ops.add(
        ops.matmul(factor, ops.constant(first), False, True), ops.constant(np.ones((1, 1, INPUTS), np.float32))
    )
    product = ops.matmul(projected, ops.constant(second), False, True)
    product.set_friendly_name("/layer.0/attention/query/MatMul")
    model = openvino.Model([product, projected], [factor])
    values = rng.standard_normal((2, 9, INPUTS)).astype(np.float32)
    ranges = np.abs(values @ first.T + 1).max(axis=(0, 1))
    assert with_fixed_scales(openvino, model, {QUERY: ranges}) == 0
    assert np.abs(run(openvino, model, values)[0] - (values @ first.T + 1) @ second.T).max() < 1e-2


@pytest.mark.parametrize("count", [INPUTS + 1, INPUTS - TILE])
def test_ranges_of_another_product_are_refused(count: int) -> None:
    openvino = module.import_openvino()
    model = graph_of(openvino, {QUERY: np.ones((OUTPUTS, INPUTS), np.float32)})
    with pytest.raises(BundleError, match=f"{count} INT8 ranges for the {INPUTS} inputs of {QUERY}: build the bundle"):
        with_fixed_scales(openvino, model, {QUERY: np.ones(count, np.float32)})


@pytest.mark.parametrize("tiles", [True, False])
def test_a_session_takes_them_where_the_processor_has_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: bool
) -> None:
    graph, ranges = save_graph(tmp_path / "model.onnx"), tmp_path / INT8_RANGES_NAME
    monkeypatch.setattr(module, "has_tiles", lambda: tiles)
    assert module.ranges_beside(graph) is None
    Int8Ranges({}).save(ranges)
    assert module.ranges_beside(graph) == (ranges if tiles else None)


def test_every_built_bundle_holds_them(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    ranges = Int8Ranges.read(bundle.path(INT8_RANGES_NAME))
    structure = bundle.manifest.model.structure
    assert sha256_of(bundle.path(INT8_RANGES_NAME)) == bundle.manifest.files[INT8_RANGES_NAME].sha256
    graph = module.import_openvino().Core().read_model(str(bundle.graph("fp32")))
    assert with_fixed_scales(module.import_openvino(), graph, ranges) == len(ranges) > 0
    assert {len(values) for name, values in ranges.items() if "query" in name} == {structure.hidden_size}
