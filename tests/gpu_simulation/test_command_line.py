"""From build-engine to parity on the command line, on the **simulated** TensorRT and GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from densepack_runtime.bundle import Bundle, edit_bundle
from tests.command_line import CommandLine
from tests.conftest import BUNDLE_QUESTIONS
from tests.gpu_simulation.install import NOTHING, RTX_3090, Simulation, install

SMALL = ("--lengths", "384", "--max-batch", "8")


@pytest.fixture
def with_plan(folder: Path, simulation: Simulation, densepack: CommandLine) -> Path:
    done = densepack("build-engine", str(folder), "--max-batch", "8")
    assert done.code == 0, done.err
    return folder


def test_a_plan_is_built_checked_and_proved(with_plan: Path, simulation: Simulation, densepack: CommandLine) -> None:
    [entry] = Bundle.open(with_plan).manifest.engines
    assert (entry.flavour, entry.gpu, entry.compute_capabilities) == ("tensorrt", "simulated H100", ("9.0",))
    assert entry.verdict.startswith("same best span in ")
    assert entry.proof.engine == "1 layers, 1 of them with Half results, 1 with attention in their name"
    done = densepack("parity", str(with_plan), "--limit", str(BUNDLE_QUESTIONS), "--json")
    assert done.code == 0, done.err
    rungs = {rung["name"]: rung for rung in json.loads(done.out)["rungs"]}
    plan, corners = rungs["plan tensorrt-simulated-h100-fp16"], rungs["plan tensorrt-simulated-h100-fp16, corners"]
    assert plan["status"] == corners["status"] == "passed"
    assert plan["questions"] == BUNDLE_QUESTIONS
    assert "8x384" in corners["note"]
    assert simulation.violations == []
    assert simulation.cuda.live() == NOTHING


def test_it_answers_and_says_what_it_took(with_plan: Path, densepack: CommandLine) -> None:
    question = ("-q", "Who built it?", "-c", "It was built by Anna Berg in 1901.")
    done = densepack("answer", str(with_plan), *question)
    assert (done.code, done.out.strip()) == (0, "Anna Berg")
    assert "backend tensorrt fp16: engines/tensorrt-simulated-h100-fp16.plan fits simulated H100" in " ".join(
        done.err.split()
    )
    plain = densepack("answer", str(with_plan), *question, "--no-cuda-graphs")
    assert plain.out == done.out
    told = " ".join(densepack("doctor", str(with_plan)).out.split())
    assert "fits simulated H100" in told
    assert "would open tensorrt fp16" in told


def test_a_plan_with_wrong_weights_loses_the_ladder(
    with_plan: Path, simulation: Simulation, densepack: CommandLine
) -> None:
    """The graph is right, the plan beside it was built from another one."""
    with edit_bundle(Bundle.open(with_plan)) as draft:
        [entry] = draft.manifest.engines
        plan = draft.path(entry.plan)
        graph = draft.path("model.fp16.onnx")
        model = onnx.load(graph)
        [weight] = [tensor for tensor in model.graph.initializer if tensor.name == "qa_outputs.weight.transposed"]
        swapped = np.ascontiguousarray(numpy_helper.to_array(weight)[:, ::-1])
        weight.CopyFrom(numpy_helper.from_array(swapped, weight.name))
        planted = graph.with_name("planted.onnx")
        onnx.save(model, planted)
        from densepack_export.plans.builder import PlanSettings, build_plan

        built = build_plan(planted, plan, PlanSettings(flavour="tensorrt"), entry.profiles)
        planted.unlink()
        wrong = replace(entry, plan_sha256=built.entry.plan_sha256)
        draft.manifest = replace(draft.manifest, engines=(wrong,))
    done = densepack("parity", str(with_plan), "--limit", str(BUNDLE_QUESTIONS))
    assert done.code == 1
    assert "parity failed: plan tensorrt-simulated-h100-fp16: same best span for" in done.err


def test_a_timing_cache_is_kept_and_used(with_plan: Path, simulation: Simulation, densepack: CommandLine) -> None:
    assert simulation.caches_used == [b""]
    assert Bundle.open(with_plan).path("timing.cache").read_bytes() == b"simulated timing cache 11.4.0.106"
    assert densepack("build-engine", str(with_plan), *SMALL).code == 0
    assert simulation.caches_used[1:] == [b"simulated timing cache 11.4.0.106"]
    assert len(Bundle.open(with_plan).manifest.engines) == 1


def test_an_engine_for_another_machine(
    with_plan: Path, densepack: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, gpu=RTX_3090)
    done = densepack("answer", str(with_plan), "--backend", "tensorrt", "-q", "Who?", "-c", "Ann met Bob.")
    assert done.code == 1
    [line] = done.error_lines
    assert "for compute capability 9.0 (simulated H100), here is simulated RTX 3090 with 8.6. Rebuild it" in line
    told = " ".join(densepack("doctor", str(with_plan)).out.split())
    assert "here is simulated RTX 3090" in told


def test_a_failing_build_leaves_the_bundle(with_plan: Path, simulation: Simulation, densepack: CommandLine) -> None:
    before = {path: path.read_bytes() for path in with_plan.rglob("*") if path.is_file()}
    simulation.faults.plan("Builder.build_serialized_network")
    done = densepack("build-engine", str(with_plan), *SMALL)
    assert done.code == 1
    assert done.error_lines == ["error: TensorRT 11.4.0.106 gave no plan and no error: [simulated] no tactic was left"]
    assert {path: path.read_bytes() for path in with_plan.rglob("*") if path.is_file()} == before


def test_version_compatible_plans_run_with_later_versions(
    folder: Path, simulation: Simulation, densepack: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert densepack("build-engine", str(folder), *SMALL, "--version-compatible").code == 0
    [entry] = Bundle.open(folder).manifest.engines
    assert "VERSION_COMPATIBLE" in entry.flags
    install(monkeypatch, version="11.5.0.1")
    done = densepack("answer", str(folder), "--backend", "tensorrt", "-q", "Who met Bob?", "-c", "Ann met Bob.")
    assert (done.code, done.out.strip()) == (0, "Ann")


def test_bisect_follows_a_plan_through_its_debug_tensors(
    with_plan: Path, simulation: Simulation, densepack: CommandLine
) -> None:
    done = densepack("parity", str(with_plan), "--bisect", "fp32,plan", "--limit", "4")
    assert done.code == 0, done.err
    assert "plan follows fp32 through all" in done.err
    assert "/layer.5/ffn_norm/norm" in done.out
    assert simulation.cuda.live() == NOTHING
