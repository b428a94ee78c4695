"""Exported graphs: what they compute, of what they consist, what they are called, and that every fault is caught."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from densepack_export.graphs import onnx_export
from densepack_export.graphs.onnx_checks import AXES, check_onnx
from densepack_export.graphs.onnx_export import compare_onnx_with_module, export_onnx, export_shapes, random_batch
from densepack_export.graphs.onnx_graph import graph_from_module
from densepack_runtime.errors import BackendError, ExportError
from densepack_runtime.sessions.session import INPUT_NAMES, OUTPUT_NAMES, Precision
from densepack_runtime.structure import Structure
from tests.export.conftest import PRECISIONS, VARIANTS, Exported, ExportedBy, random_module
from tests.export.graphs.planted_graphs import compute_in_float32, normalise_in_float16

# Two orders of float32 summation, and the rounding of weights to float16 in a model of three layers with logits
# around 1: ten times what was seen.
LIMITS: dict[Precision, float] = {"fp32": 5e-6, "fp16": 2e-2}


def run_file(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(list(OUTPUT_NAMES), inputs))


def operators_of(path: Path) -> dict[str, int]:
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    return {name: nodes.count(name) for name in nodes}


# --- what it computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_graph_computes_what_the_module_computes(exported: ExportedBy, name: str, precision: Precision) -> None:
    made = exported(name, precision)
    for shape in [(1, 1), (1, 5), (5, 1), (3, 17), (2, 384)]:
        batch = random_batch(made.module.structure, *shape, seed=3)
        found = run_file(made.path, dict(batch.arrays()))
        with torch.inference_mode():
            expected = made.module(*map(torch.from_numpy, batch.arrays().values()))
        for there, here in zip(found, expected, strict=True):
            assert there.dtype == np.float32
            assert there.shape == shape
            difference = np.abs(there - here.numpy())[batch.attention_mask == 1]
            assert difference.max() <= LIMITS[precision], f"max {difference.max()}, mean {difference.mean()} at {shape}"


def test_largest_promised_shape(exported: ExportedBy) -> None:
    """64x512, judged on rows that are computed alone: a row does not depend on its neighbours."""
    made = exported("gelu", "fp32")
    batch = random_batch(made.module.structure, 64, 512)
    found = run_file(made.path, dict(batch.arrays()))
    rows = [0, 31, 63]
    with torch.inference_mode():
        expected = made.module(*(torch.from_numpy(array[rows]) for array in batch.arrays().values()))
    real = batch.attention_mask[rows] == 1
    for there, here in zip(found, expected, strict=True):
        assert there.shape == (64, 512)
        assert np.abs(there[rows] - here.numpy())[real].max() <= LIMITS["fp32"]


def test_float16_weights_are_really_rounded(exported: ExportedBy) -> None:
    """A float32 graph under another name would differ by nothing."""
    half, full = exported("gelu", "fp16").report, exported("gelu", "fp32").report
    assert half.max_abs_logit > 10 * full.max_abs_logit
    assert half.bytes < 0.6 * full.bytes


# --- of what it consists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operators_are_few_and_whole(exported: ExportedBy, precision: Precision) -> None:
    found = operators_of(exported("gelu", precision).path)
    # 2 layers with heads (4 projections, 2 products), 2 with units (2 projections), the answer head.
    assert found["MatMul"] == 2 * 6 + 2 * 2 + 1
    assert (found["LayerNormalization"], found["Softmax"], found["Gelu"]) == (7, 2, 2)
    assert found["Shape"] == 1, "only the position table is cut to a length that is known at run time"
    assert found["Cast"] == (26 if precision == "fp16" else 1)
    allowed = {"Add", "Cast", "Gather", "Gelu", "LayerNormalization", "MatMul", "Mul", "Reshape", "Shape", "Slice"}
    assert set(found) == allowed | {"Softmax", "Sub", "Transpose", "Unsqueeze"}


def test_other_norms_and_activations(exported: ExportedBy) -> None:
    relu = operators_of(exported("no_norm_relu", "fp16").path)
    assert relu["Relu"] == 2
    assert {"LayerNormalization", "Gelu"}.isdisjoint(relu)
    graph = onnx.load(exported("gelu_new", "fp16").path).graph
    approximations = [helper.get_node_attr_value(node, "approximate") for node in graph.node if node.op_type == "Gelu"]
    assert approximations == [b"tanh", b"tanh"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_interface(exported: ExportedBy, precision: Precision) -> None:
    model = onnx.load(exported("gelu", precision).path)
    for values, names, dtype in (
        (model.graph.input, INPUT_NAMES, TensorProto.INT64),
        (model.graph.output, OUTPUT_NAMES, TensorProto.FLOAT),
    ):
        assert tuple(value.name for value in values) == names
        for value in values:
            assert value.type.tensor_type.elem_type == dtype
            assert tuple(axis.dim_param for axis in value.type.tensor_type.shape.dim) == AXES
    assert model.opset_import[0].version >= 20
    assert all(not tensor.external_data for tensor in model.graph.initializer)


def test_report(exported: ExportedBy) -> None:
    made = exported("gelu", "fp16")
    report = made.report
    content = made.path.read_bytes()
    assert report.path == made.path
    assert report.bytes == len(content)
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.operators == operators_of(made.path)
    assert report.nodes == sum(report.operators.values())
    assert report.parameters == made.module.structure.parameters
    shapes = [(entry.batch, entry.length) for entry in report.differences]
    assert shapes == [(1, 1), (3, 17), (7, 3), (1, 128), (2, 512)]
    assert json.loads(json.dumps(report.as_dict()))["max_abs_logit"] == report.max_abs_logit
    assert dict(report.rows())["precision"] == "fp16"


def test_shapes_fit_a_short_model(tiny_structure: Structure) -> None:
    shapes = export_shapes(replace(tiny_structure, max_position_embeddings=16))
    assert shapes == [(1, 1), (3, 16), (7, 3), (1, 16), (2, 16)]


def test_random_batches_have_real_padding(tiny_structure: Structure) -> None:
    mask = random_batch(tiny_structure, 5, 40).attention_mask
    assert mask[0].sum() == 40
    assert 1 <= mask[-1].sum() <= 14
    assert (np.diff(mask, axis=1) <= 0).all()


# --- names and origin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_names_say_where_a_node_belongs(exported: ExportedBy, precision: Precision) -> None:
    made = exported("gelu", precision)
    graph = onnx.load(made.path).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {
        "/layer.0/attention/query/MatMul",
        "/layer.0/attention/scores/MatMul",
        "/layer.0/attention/context/MatMul",
        "/layer.0/ffn/intermediate/MatMul",
        "/layer.2/attention/output/Add",
        "/layer.2/ffn_norm/norm/LayerNormalization",
        "/embeddings/word/Gather",
        "/qa_outputs/MatMul",
    } <= set(names)
    for node in graph.node:
        assert re.search(rf"/{node.op_type}(_\d+)?$", node.name), node.name
        if node.op_type in ("MatMul", "LayerNormalization", "Softmax", "Gelu"):
            assert re.match(r"/(layer\.\d|embeddings|qa_outputs)", node.name), node.name


def test_every_parameter_is_there_under_its_name(exported: ExportedBy) -> None:
    made = exported("gelu", "fp32")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer}
    for name, parameter in made.module.state_dict().items():
        expected = parameter.numpy()
        found = tensors[name] if name in tensors else tensors[f"{name}.transposed"].T
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("name", ["gelu", "no_norm_relu"])
def test_norms_keep_all_their_bits(exported: ExportedBy, name: str) -> None:
    """They are float32 islands: neither stored in float16 nor rounded to it on the way."""
    made = exported(name, "fp16")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer}
    norms = {key: value.numpy() for key, value in made.module.state_dict().items() if ".norm." in key}
    assert len(norms) == 14
    for key, expected in norms.items():
        assert tensors[key].dtype == np.float32
        np.testing.assert_array_equal(tensors[key], expected, err_msg=key)


def test_same_module_same_bytes(exported: ExportedBy, tmp_path: Path) -> None:
    made = exported("gelu", "fp16")
    again = export_onnx(made.module, tmp_path / "elsewhere" / "again.onnx", precision="fp16")
    assert again.sha256 == made.report.sha256


@pytest.mark.slow
def test_same_bytes_in_another_process(exported: ExportedBy, tmp_path: Path) -> None:
    """Another order of hashing, another folder: nothing of it is in the file."""
    made = exported("gelu", "fp32")
    torch.save((made.module.structure, made.module.state_dict()), tmp_path / "module.pt")
    script = (
        "import torch; from pathlib import Path; from densepack_export.graphs.onnx_export import export_onnx\n"
        "from densepack_models.packed_bert import PackedBertForQuestionAnswering as Packed\n"
        "structure, state = torch.load('module.pt', weights_only=False)\n"
        "module = Packed(structure); module.load_state_dict(state)\n"
        "print(export_onnx(module, Path('other.onnx')).sha256)\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "11"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [made.report.sha256], "the hash alone is on stdout"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_of_this_machine_is_in_the_file(exported: ExportedBy, precision: Precision) -> None:
    made = exported("gelu", precision)
    content = made.path.read_bytes()
    for trace in (str(Path(__file__).parents[3]), "site-packages", "packed_bert", 'File "', "torch", "stack_trace"):
        assert trace.encode() not in content, trace
    model = onnx.load(made.path)
    assert model.producer_name == "densepack"
    assert model.producer_version
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_export_is_quiet(
    tiny_structure: Structure, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    small = replace(tiny_structure, layers=tiny_structure.layers[:1])
    level = logging.getLogger("torch.onnx").level
    export_onnx(random_module(small), tmp_path / "model.onnx")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").level == level


def test_polygraphy_runs_the_file(exported: ExportedBy) -> None:
    """The line that docs/fp16.md gives."""
    polygraphy = Path(sys.executable).with_name("polygraphy")
    ranges = ["input_ids:[0,30000]", "attention_mask:[1,1]", "token_type_ids:[0,1]"]
    graph = exported("gelu", "fp16").path
    command = [str(polygraphy), "run", str(graph), "--onnxrt", "--val-range", *ranges]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "start_logits" in done.stdout
    assert "PASSED" in done.stdout


def test_polygraphy_reads_the_file(exported: ExportedBy) -> None:
    polygraphy = Path(sys.executable).with_name("polygraphy")
    path = exported("gelu", "fp16").path
    done = subprocess.run([polygraphy, "inspect", "model", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "start_logits [dtype=float32, shape=('batch', 'sequence')]" in done.stdout


# --- faults that the checks must find -----------------------------------------------------------------------------


def set_mask(value: float) -> Callable[[onnx.ModelProto], None]:
    def plant(model: onnx.ModelProto) -> None:
        mask = next(tensor for tensor in model.graph.initializer if tensor.name == "/Mul.B")
        mask.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype=np.float32), "/Mul.B"))

    return plant


def repeat_a_name(model: onnx.ModelProto) -> None:
    model.graph.node[3].name = model.graph.node[4].name


def fix_the_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del model.graph.value_info[:]


def swap_outputs(model: onnx.ModelProto) -> None:
    first, second = model.graph.output[0].name, model.graph.output[1].name
    model.graph.output[0].name, model.graph.output[1].name = second, first


def break_a_type(model: onnx.ModelProto) -> None:
    """A cast to another type in front of a product: the graph contradicts itself."""
    cast = next(node for node in model.graph.node if node.name == "/embeddings/Cast_3")
    cast.attribute[0].i = TensorProto.FLOAT


FAULTS = [
    (compute_in_float32, r"the product /layer\.0/ffn/output/MatMul computes in FLOAT, promised is FLOAT16"),
    (normalise_in_float16, r"/embeddings/norm/LayerNormalization computes in FLOAT16, promised is FLOAT"),
    (set_mask(-3.4e38), r"the constant /Mul\.B reaches 3\.4e\+38, and float16 graphs allow 1e\+04"),
    (set_mask(-np.inf), r"the constant /Mul\.B holds inf or NaN"),
    (repeat_a_name, r"2 nodes have the name '/Unsqueeze'"),
    (fix_the_batch, r"input_ids is INT64 \[4, sequence\], promised is INT64 \[batch, sequence\]"),
    (swap_outputs, r"the graph has end_logits, start_logits where start_logits, end_logits are promised"),
    (break_a_type, r"not a valid ONNX graph: .*"),
]


@pytest.mark.parametrize(("plant", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_fault_is_named(
    exported: ExportedBy, tmp_path: Path, plant: Callable[[onnx.ModelProto], None], message: str
) -> None:
    made = exported("gelu", "fp16")
    check_onnx(made.path, precision="fp16")
    model = onnx.load(made.path)
    plant(model)
    onnx.save(model, tmp_path / "planted.onnx")
    with pytest.raises(ExportError, match=message):
        check_onnx(tmp_path / "planted.onnx", precision="fp16")


def test_all_faults_are_listed(exported: ExportedBy, tmp_path: Path) -> None:
    model = onnx.load(exported("gelu", "fp16").path)
    set_mask(-np.inf)(model)
    repeat_a_name(model)
    onnx.save(model, tmp_path / "planted.onnx")
    with pytest.raises(ExportError, match=r"\(2 faults\).*2 nodes.*holds inf"):
        check_onnx(tmp_path / "planted.onnx", precision="fp16")


def test_wrong_precision_is_named(exported: ExportedBy) -> None:
    with pytest.raises(ExportError, match=r"\(17 faults\).*computes in FLOAT, promised is FLOAT16"):
        check_onnx(exported("gelu", "fp32").path, precision="fp16")


def test_damaged_file(exported: ExportedBy, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="not a valid ONNX graph"):
        check_onnx(path, precision="fp32")
    with pytest.raises(BackendError, match="cannot load"):
        compare_onnx_with_module(path, exported("gelu", "fp32").module, [(1, 1)])


# --- what export_onnx does when something is wrong ----------------------------------------------------------------


def graph_of_another(made: Exported, factor: float) -> Callable[..., object]:
    """A stand-in for the exporter: the graph of a module with one output matrix scaled."""
    other = random_module(made.module.structure)
    other.load_state_dict(made.module.state_dict())
    with torch.no_grad():
        dict(other.named_parameters())["layer.0.attention.output.weight"].mul_(factor)
    return lambda packed, precision: graph_from_module(other, precision)


def test_wrong_weights_close_the_gate_and_leave_the_old_file(
    exported: ExportedBy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("gelu", "fp32")
    monkeypatch.setattr(onnx_export, "graph_from_module", graph_of_another(made, 1.01))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"model\.onnx does not compute what the module computes: .*allowed is 1e-04"):
        export_onnx(made.module, path, precision="fp32")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "nothing half-written is left"


def test_too_large_for_one_file(exported: ExportedBy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_FILE_BYTES", 1000)
    with pytest.raises(ExportError, match=r"would have 0\.00 GiB of weights, and one ONNX file holds 2 GiB"):
        export_onnx(exported("gelu", "fp32").module, tmp_path / "model.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_only_float32_modules(exported: ExportedBy, tmp_path: Path) -> None:
    half = exported("gelu", "fp32").module.typed_fp16()
    with pytest.raises(ExportError, match=r"this one is in torch\.float16"):
        export_onnx(half, tmp_path / "model.onnx")
