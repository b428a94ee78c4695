"""TensorRT plans, really built: TensorRT for RTX needs no GPU for that. Nothing here runs a plan."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from densepack_export.graphs.onnx_export import export_onnx
from densepack_export.plans.builder import DEFAULT_PROFILES, PlanSettings, build_plan, choose_flavour
from densepack_runtime.bundle import MANIFEST
from densepack_runtime.errors import EngineBuildError, ExportError, InputError, MissingDependencyError
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.sessions.session import Precision
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.structure import LayerStructure, Structure
from densepack_runtime.tensorrt_plans import log as tensorrt_log
from densepack_runtime.tensorrt_plans.module import load_tensorrt
from densepack_runtime.tensorrt_plans.record import PlanEntry
from tests.export.conftest import PRECISIONS, VARIANTS, ExportedBy, random_module
from tests.export.graphs.planted_graphs import compute_in_float32

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'densepack[rtx]'")

ALL_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# The heads of the tiny structure have 8 values, and TensorRT fuses attention from 16 on.
WRITTEN_OUT = PlanSettings(attention="written-out")


def settings(precision: Precision) -> PlanSettings:
    return replace(WRITTEN_OUT, precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_exported_graph_builds(exported: ExportedBy, tmp_path: Path, name: str, precision: Precision) -> None:
    made = exported(name, precision)
    plan = tmp_path / "engines" / "rtx.plan"
    report = build_plan(made.path, plan, settings(precision)).entry
    assert report.flavour == "tensorrt-rtx"
    assert report.tensorrt_version == trt.__version__
    assert report.proof.products == made.report.operators["MatMul"]
    assert report.proof.half_products == (report.proof.products if precision == "fp16" else 0)
    assert report.compute_capabilities == ALL_CAPABILITIES
    assert report.profiles == DEFAULT_PROFILES
    assert report.plan_sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert report.onnx_sha256 == made.report.sha256
    assert report.bytes == plan.stat().st_size > 1000
    assert report.seconds > 0
    assert report.flags == ("TF32",)
    assert report.warnings == ()
    assert list(plan.parent.iterdir()) == [plan]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bert_large_width_builds(tmp_path: Path, precision: Precision) -> None:
    """Two layers, 16 heads of 64, an odd and a multiple-of-8 width."""
    layers = (
        LayerStructure(heads=tuple(range(16)), ffn_units=tuple(range(717)), ffn_width=717),
        LayerStructure(heads=(3, 9, 15), ffn_units=tuple(range(1000)), ffn_width=1000),
    )
    structure = Structure(1000, 512, 2, 1024, 16, 4096, layers)
    graph = tmp_path / "model.onnx"
    export_onnx(random_module(structure), graph, precision=precision)
    report = build_plan(graph, tmp_path / "model.plan", replace(PlanSettings(), precision=precision)).entry
    # With attention fused, scores and context are one product.
    assert report.proof.half_products == (15 if precision == "fp16" else 0)
    assert report.proof.products == (15 if precision == "fp16" else 17)


def test_settings_and_several_profiles(exported: ExportedBy, tmp_path: Path) -> None:
    profiles = (Profile((1, 1), (1, 64), (1, 64)), Profile((1, 65), (8, 128), (16, 128)))
    asked = replace(WRITTEN_OUT, compute_capabilities=("8.6", "8.9"), workspace_bytes=2**28, optimization_level=1)
    report = build_plan(exported("gelu", "fp16").path, tmp_path / "plan", asked, profiles).entry
    assert report.compute_capabilities == ("8.6", "8.9")
    assert MANIFEST.record(json.loads(json.dumps(data_from_record(report))), PlanEntry) == report
    assert report.profiles == profiles


def test_progress_is_told(exported: ExportedBy, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[str, int, int]] = []
    path = exported("gelu", "fp16").path
    build_plan(path, tmp_path / "plan", WRITTEN_OUT, on_progress=lambda *step: steps.append(step))
    assert steps[0][0] == "Building engine"
    assert all(0 <= done <= total for _, done, total in steps)
    assert ("Building engine", 6, 6) in steps
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_ctrl_c_cancels_and_leaves_the_old_plan(exported: ExportedBy, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_bytes(b"old")
    told: list[str] = []

    def interrupt(phase: str, done: int, total: int) -> None:
        told.append(phase)
        if len(told) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(exported("gelu", "fp16").path, plan, WRITTEN_OUT, on_progress=interrupt)
    assert len(told) == 40, "nothing is told after the interrupt"
    assert plan.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [plan]


# --- what must not become a plan ----------------------------------------------------------------------------------


def test_planted_float32_product_is_refused(exported: ExportedBy, tmp_path: Path) -> None:
    model = onnx.load(exported("gelu", "fp16").path)
    compute_in_float32(model)
    onnx.save(model, tmp_path / "planted.onnx")
    with pytest.raises(
        EngineBuildError, match=r"1 of 17 matrix products are not in float16: /layer\.0/ffn/output/MatMul \(FLOAT\)\."
    ):
        build_plan(tmp_path / "planted.onnx", tmp_path / "plan", WRITTEN_OUT)
    assert not (tmp_path / "plan").exists()
    allowed = build_plan(tmp_path / "planted.onnx", tmp_path / "plan", replace(WRITTEN_OUT, allow_fp32=True))
    assert (allowed.entry.proof.half_products, allowed.entry.proof.products) == (16, 17)
    assert ("not in float16", "/layer.0/ffn/output/MatMul (FLOAT)") in allowed.entry.proof.rows()


def test_float32_graph_is_no_float16_engine(exported: ExportedBy, tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"17 of 17 matrix products are not in float16: .* and 12 more"):
        build_plan(exported("gelu", "fp32").path, tmp_path / "plan", settings("fp16"))
    with pytest.raises(EngineBuildError, match=r"17 of 17 matrix products are in float16, and fp32 was asked for"):
        build_plan(exported("gelu", "fp16").path, tmp_path / "plan", settings("fp32"))


def test_fused_attention_counts_as_a_product(tmp_path: Path) -> None:
    """ONNX Attention becomes a layer of its own kind; in float32 it must not pass for float16."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2, "sequence", 64]) for name in "qkvy"]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], name="/layer.0/attention/Attention")
    graph = helper.make_graph([node], "attention", tensors[:3], tensors[3:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "attention.onnx")
    with pytest.raises(EngineBuildError, match=r"1 of 1 matrix products are not in float16: .*Attention"):
        build_plan(tmp_path / "attention.onnx", tmp_path / "plan", settings("fp16"))


def test_unsupported_operators_are_all_named(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Foreign", ["x"], ["between"], name="/layer.0/foreign", domain="custom"),
        helper.make_node("Stranger", ["between"], ["y"], name="/layer.1/stranger", domain="custom"),
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]
    graph = helper.make_graph(nodes, "planted", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "planted.onnx")
    with pytest.raises(EngineBuildError, match=r"planted\.onnx: /layer\.0/foreign \(Foreign\): .*; /layer\.1/"):
        build_plan(tmp_path / "planted.onnx", tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_unreadable_graphs(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match="there is no ONNX graph at"):
        build_plan(tmp_path / "missing.onnx", tmp_path / "plan")
    (tmp_path / "damaged.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineBuildError, match=r"cannot parse damaged\.onnx: "):
        build_plan(tmp_path / "damaged.onnx", tmp_path / "plan", WRITTEN_OUT)
    with pytest.raises(ExportError, match=r"damaged\.onnx is not an ONNX graph .*: export it again"):
        build_plan(tmp_path / "damaged.onnx", tmp_path / "plan")


def test_foreign_inputs(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(EngineBuildError, match="the graph has the inputs x; expected are input_ids"):
        build_plan(tmp_path / "x.onnx", tmp_path / "plan")


def test_profile_beyond_the_position_table(exported: ExportedBy, tmp_path: Path) -> None:
    """TensorRT only warns about this one, and returns a plan that fails when it is run."""
    profiles = (Profile((1, 1), (4, 384), (8, 1024)),)
    with pytest.raises(EngineBuildError, match=r"errors while building the engine: .*not self-consistent.*1024 != 512"):
        build_plan(exported("gelu", "fp16").path, tmp_path / "plan", WRITTEN_OUT, profiles)
    assert not list(tmp_path.iterdir())


def test_error_in_the_log_fails_a_build_that_gave_a_plan(
    exported: ExportedBy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = tensorrt_log.TensorRTLog.add
    monkeypatch.setattr(
        tensorrt_log.TensorRTLog,
        "add",
        lambda self, *, is_error, text: add(self, is_error=True, text=f"planted: {text}"),
    )
    with pytest.raises(EngineBuildError, match=r"logged errors while parsing .*planted: .*has Int64 binding"):
        build_plan(exported("gelu", "fp16").path, tmp_path / "plan", WRITTEN_OUT)
    assert not list(tmp_path.iterdir())


def test_log_sorts_lines() -> None:
    log = tensorrt_log.TensorRTLog()
    log.add(is_error=False, text="Make sure input input_ids has Int64 binding.")
    log.add(is_error=False, text="something\n  is odd")
    log.add(is_error=False, text="something is odd")
    log.add(is_error=False, text="setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX.")
    log.add(is_error=True, text="Error Code 4")
    assert log.warnings == ["something is odd"]
    assert log.errors == ["setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX.", "Error Code 4"]


# --- wrong requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [((8, 1), (4, 64), (16, 128)), ((0, 1), (1, 1), (1, 1)), ((1, 2), (1, 3), (1, 1))])
def test_impossible_profiles(shapes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(InputError, match=r"cannot be: batch and length need 1 <= min <= opt <= max"):
        Profile(*shapes)


def test_wrong_settings(exported: ExportedBy, tmp_path: Path) -> None:
    path = exported("gelu", "fp16").path
    with pytest.raises(InputError, match=r"unknown compute capability 9\.0: this TensorRT knows 7\.5, 8\.0"):
        build_plan(path, tmp_path / "plan", replace(WRITTEN_OUT, compute_capabilities=("8.6", "9.0")))
    with pytest.raises(InputError, match="at least one profile"):
        build_plan(path, tmp_path / "plan", WRITTEN_OUT, ())
    assert not list(tmp_path.iterdir())


def test_what_a_flavour_cannot_do_is_refused_by_name(exported: ExportedBy, tmp_path: Path) -> None:
    path = exported("gelu", "fp16").path
    with pytest.raises(InputError, match="TensorRT for RTX has no version-compatible plans"):
        build_plan(path, tmp_path / "plan", replace(WRITTEN_OUT, version_compatible=True))
    datacenter = replace(WRITTEN_OUT, flavour="tensorrt")
    with pytest.raises(InputError, match="compute capabilities can be chosen for the flavour tensorrt-rtx only"):
        build_plan(path, tmp_path / "plan", replace(datacenter, compute_capabilities=("9.0",)))
    with pytest.raises(EngineBuildError, match=r"no NVIDIA GPU is here: build on that host, or with --flavour"):
        build_plan(path, tmp_path / "plan", datacenter)
    assert not list(tmp_path.iterdir())


def test_heads_without_a_fused_kernel_are_refused_with_the_way_out(exported: ExportedBy, tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"Attention .*No fused kernel for these heads: --attention written-out"):
        build_plan(exported("gelu", "fp16").path, tmp_path / "plan", PlanSettings())
    assert not list(tmp_path.iterdir())


def test_missing_packages_name_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"densepack\[rtx\]"):
        build_plan(tmp_path / "model.onnx", tmp_path / "plan")
    with pytest.raises(MissingDependencyError, match=r"densepack\[gpu\]"):
        load_tensorrt("tensorrt")
    monkeypatch.setattr(Host, "here", lambda: Host(None, {}))
    with pytest.raises(MissingDependencyError, match=r"no TensorRT is installed: pip install 'densepack\[rtx\]'"):
        choose_flavour()


def test_builds_do_not_share_a_log(exported: ExportedBy, tmp_path: Path) -> None:
    """The error holds the first builder alive; TensorRT would go on writing to that builder's logger."""
    path = exported("gelu", "fp16").path
    beyond = (replace(DEFAULT_PROFILES[0], max=(32, 513)),)
    with pytest.raises(EngineBuildError, match="not self-consistent") as held:
        build_plan(path, tmp_path / "plan", WRITTEN_OUT, beyond)
    assert build_plan(path, tmp_path / "plan", WRITTEN_OUT).entry.warnings == ()
    with pytest.raises(EngineBuildError, match="not self-consistent"):
        build_plan(path, tmp_path / "plan", WRITTEN_OUT, beyond)
    assert held.tb is not None


def test_a_foreign_logger_fails_the_build(exported: ExportedBy, tmp_path: Path) -> None:
    """Where somebody else's logger gets TensorRT's errors, a plan cannot be trusted. Own process: loggers stay."""
    script = (
        "import sys, tensorrt_rtx as trt; from pathlib import Path; from densepack_export.plans.builder import *\n"
        "foreign = trt.Logger(); builder = trt.Builder(foreign)\n"
        "build_plan(Path(sys.argv[1]), Path(sys.argv[2]), PlanSettings(attention='written-out'))\n"
    )
    command = [sys.executable, "-c", script, str(exported("gelu", "fp16").path), str(tmp_path / "plan")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EngineBuildError" in done.stderr
    assert "logger is ignored" in done.stderr
    assert not (tmp_path / "plan").exists()
