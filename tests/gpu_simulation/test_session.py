"""The TensorRT session on the **simulated** TensorRT and GPU: answers, rules, faults, leaks, threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densepack_export.plans.builder import PlanSettings, build_plan
from densepack_runtime.errors import BackendError, DensepackError, InputError
from densepack_runtime.sessions.compile_cache import KeptFile
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits
from densepack_runtime.sessions.shapes import bucket_profiles
from densepack_runtime.tensorrt_plans import lane as tensorrt_lane
from densepack_runtime.tensorrt_plans.record import PlanEntry
from densepack_runtime.tensorrt_plans.session import LANES, TensorRTSession
from tests.gpu_simulation.install import NOTHING, RTX_3090, Simulation, install

# Padding changes the order of summation; the simulation computes in float32.
TOLERANCE = 2e-2
OPENS = 1000


@dataclass(frozen=True)
class Built:
    """A simulated plan, and the graph it was made of."""

    plan: Path
    entry: PlanEntry
    graph: Path

    def open(self, lanes: int = LANES, **options: Any) -> TensorRTSession:
        told = SessionOptions(**options)
        if lanes != LANES:
            return TensorRTSession(self.plan, self.entry, options=told, lanes=lanes)
        return TensorRTSession.open(self.plan, self.entry, options=told)


def build(graph: Path, folder: Path, max_batch: int = 8) -> Built:
    profiles = bucket_profiles((64, 128), max_batch, max_length=384, latency=True)
    flavour = PlanSettings(flavour="tensorrt")
    return Built(folder / "a.plan", build_plan(graph, folder / "a.plan", flavour, profiles).entry, graph)


@pytest.fixture
def built(default_bundle: Path, simulation: Simulation, tmp_path: Path) -> Built:
    return build(default_bundle / "model.fp16.onnx", tmp_path)


@pytest.fixture
def tiny(tiny_graph: Path, simulation: Simulation, tmp_path: Path) -> Built:
    """For tests with many runs."""
    return build(tiny_graph, tmp_path)


@pytest.fixture
def expected(built: Built, batches: list[Batch]) -> Iterator[list[Logits]]:
    with OnnxRuntimeSession(built.graph) as session:
        yield [session.run(batch) for batch in batches]


def difference(left: Logits, right: Logits, batch: Batch) -> float:
    assert left.start.shape == right.start.shape == batch.shape
    real = batch.attention_mask.astype(bool)
    return float(max(np.abs(left.start - right.start)[real].max(), np.abs(left.end - right.end)[real].max()))


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_answers_are_those_of_the_graph(
    simulation: Simulation, built: Built, batches: list[Batch], expected: list[Logits], cuda_graphs: bool
) -> None:
    with closing(built.open(cuda_graphs=cuda_graphs)) as session:
        for _ in range(3):  # plain, captured, replayed
            for batch, wanted in zip(batches, expected, strict=True):
                assert difference(session.run(batch), wanted, batch) < TOLERANCE
        many = list(session.run_many(iter(batches)))
    assert all(
        difference(found, wanted, batch) < TOLERANCE
        for found, wanted, batch in zip(many, expected, batches, strict=True)
    )
    launched = simulation.faults.calls.get("cudaGraphLaunch", 0)
    assert (launched > 0) == cuda_graphs
    assert simulation.violations == []
    assert simulation.cuda.live() == NOTHING


def test_run_many_keeps_two_lanes_busy(simulation: Simulation, tiny: Built, batches: list[Batch]) -> None:
    """The next batch is queued before the last is waited for."""
    with closing(tiny.open()) as session:
        results = session.run_many(batches[:4])
        next(results)
        assert simulation.faults.calls["IExecutionContext.execute_async_v3"] == 2
        nested = session.run(batches[4])
        assert nested.start.shape == batches[4].shape
        assert len(list(results)) == 3
    assert simulation.cuda.live() == NOTHING


def test_half_a_stream_is_let_go(simulation: Simulation, tiny: Built, batches: list[Batch]) -> None:
    with closing(tiny.open()) as session:
        results = session.run_many(batches)
        next(results)
        results.close()  # type: ignore[attr-defined]  # it is a generator
        assert session.run(batches[0]).start.shape == batches[0].shape
    assert simulation.cuda.live() == NOTHING


def test_few_graphs_are_kept(
    simulation: Simulation, tiny: Built, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_lane, "GRAPHS_KEPT", 2)
    with closing(tiny.open(lanes=1)) as session:
        for _ in range(3):
            for batch in batches:
                session.run(batch)
                session.run(batch)
        assert simulation.cuda.live()["execs"] <= 2
    assert simulation.cuda.live() == NOTHING


def test_too_large_batches(tiny: Built, batches: list[Batch]) -> None:
    with closing(tiny.open()) as session:
        assert session.run(batches[7]).start.shape == (11, 64), "more rows than the plan takes run in parts"
        ones = np.ones((1, 385), dtype=np.int64)
        long = Batch(ones, ones, ones)
        with pytest.raises(InputError, match=r"a batch of 1x385 fits none of the plan's profiles .*--lengths"):
            session.run(long)
        session.run(batches[0])


def test_eight_threads_answer_like_one(simulation: Simulation, tiny: Built, batches: list[Batch]) -> None:
    with closing(tiny.open()) as session:
        wanted = [session.run(batch) for batch in batches]
        found: list[bool] = []

        def work() -> None:
            for batch, expected in zip(batches, wanted, strict=True):
                found.append(np.array_equal(session.run(batch).start, expected.start))
            for logits, expected in zip(session.run_many(batches), wanted, strict=True):
                found.append(np.array_equal(logits.end, expected.end))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert len(found) == 8 * 2 * len(batches)
    assert all(found)
    assert simulation.violations == []
    assert simulation.cuda.live() == NOTHING


def test_a_thousand_opens_leave_nothing(simulation: Simulation, tiny: Built, batches: list[Batch]) -> None:
    for _ in range(OPENS):
        with closing(tiny.open()):
            pass
    with closing(tiny.open()) as session:
        session.run(batches[0])
    del session
    gc.collect()
    assert simulation.cuda.live() == NOTHING
    assert len(simulation.live_objects) == 0


# --- faults ----------------------------------------------------------------------------------------------------------

OPENING = ("cudaSetDevice", "Runtime.deserialize_cuda_engine")
RUNNING = (
    "cudaStreamCreateWithFlags",
    "cudaEventCreateWithFlags",
    "ICudaEngine.create_execution_context",
    "IExecutionContext.set_optimization_profile_async",
    "cudaStreamSynchronize",
    "cudaHostAlloc",
    "cudaMalloc",
    "IExecutionContext.set_tensor_address",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.infer_shapes",
    "cudaMemcpyAsync",
    "IExecutionContext.execute_async_v3",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
)
FREEING = ("cudaFree", "cudaFreeHost", "cudaEventDestroy", "cudaStreamDestroy", "cudaGraphExecDestroy")


@pytest.mark.parametrize("call", OPENING)
def test_a_failure_while_opening_leaves_nothing(simulation: Simulation, tiny: Built, call: str) -> None:
    simulation.faults.plan(call)
    with pytest.raises(DensepackError) as told:
        tiny.open()
    assert "\n" not in str(told.value)
    assert simulation.faults.hit == [call]
    assert simulation.cuda.live() == NOTHING
    with closing(tiny.open()):
        pass


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("call", RUNNING)
def test_every_call_that_fails_is_one_line_and_passes(
    simulation: Simulation, tiny: Built, batches: list[Batch], call: str, after: int
) -> None:
    """One call fails once: that batch is an error, the same session answers the next ones rightly, nothing leaks."""
    with closing(tiny.open()) as reference:
        wanted = reference.run(batches[1])
    with closing(tiny.open()) as session:
        simulation.faults.plan(call, after)
        errors = []
        for batch in [*batches[:4], *batches[:4], *batches[:4]]:
            try:
                session.run(batch)
            except BackendError as error:
                errors.append(str(error))
        if simulation.faults.hit:  # some calls are made only once or twice
            assert len(errors) == 1
            assert "\n" not in errors[0]
        for _ in range(3):
            assert np.array_equal(session.run(batches[1]).start, wanted.start)
    assert simulation.cuda.live() == NOTHING
    assert simulation.violations == []


@pytest.mark.parametrize("call", FREEING)
def test_closing_never_raises(simulation: Simulation, tiny: Built, batches: list[Batch], call: str) -> None:
    session = tiny.open()
    for _ in range(3):
        session.run(batches[0])
    simulation.faults.plan(call)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="the TensorRT session is closed"):
        session.run(batches[0])


def test_a_sticky_error_ends_the_session(simulation: Simulation, tiny: Built, batches: list[Batch]) -> None:
    session = tiny.open()
    session.run(batches[0])
    simulation.cuda.memory.clear()  # what the queued work needs is gone
    with pytest.raises(BackendError, match=r"cudaErrorIllegalAddress while .*: end it and start again|of no more use"):
        session.run(batches[0])
    with pytest.raises(BackendError, match="the GPU is of no more use to this process since cudaErrorIllegalAddress"):
        session.run(batches[1])
    session.close()


def test_closing_ends_the_wait_of_other_threads(tiny: Built, batches: list[Batch]) -> None:
    session = tiny.open(lanes=1)
    assert session._take(wait=True) is not None  # the only lane is busy
    told: list[str] = []

    def wait() -> None:
        try:
            session.run(batches[0])
        except BackendError as error:
            told.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    session.close()
    waiting.join(timeout=30)
    assert told == ["the TensorRT session is closed"]


# --- plans that must not open ----------------------------------------------------------------------------------------


def test_a_truncated_plan(tiny: Built) -> None:
    tiny.plan.write_bytes(tiny.plan.read_bytes()[:-10])
    with pytest.raises(BackendError, match=r"cannot load a\.plan: .*truncated\. Rebuild it on this host: densepack bu"):
        tiny.open()


def test_a_missing_plan(tiny: Built) -> None:
    tiny.plan.unlink()
    with pytest.raises(BackendError, match=r"a\.plan cannot be read"):
        tiny.open()


def test_another_version(monkeypatch: pytest.MonkeyPatch, tiny: Built) -> None:
    install(monkeypatch, version="11.5.0.1")
    with pytest.raises(BackendError, match=r"was built with tensorrt 11\.4\.0\.106, here is 11\.5\.0\.1\. Rebuild it"):
        tiny.open()
    with pytest.raises(BackendError, match=r"cannot load a\.plan: .*version 11\.4\.0\.106, expecting 11\.5\.0\.1"):
        TensorRTSession(tiny.plan, tiny.entry)


def test_another_gpu(monkeypatch: pytest.MonkeyPatch, tiny: Built) -> None:
    install(monkeypatch, gpu=RTX_3090)
    with pytest.raises(BackendError, match=r"compute capability 9\.0 \(simulated H100\), here is simulated RTX 3090"):
        tiny.open()


def test_an_engine_that_is_not_of_its_record(tiny: Built, default_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = build(tiny.graph, tmp_path / "other", max_batch=4)
    with pytest.raises(
        BackendError, match=r"is not the engine of its record: .*profile 3 is 1x1 / 4x64 / 4x64 instead"
    ):
        TensorRTSession(other.plan, tiny.entry)


# --- TensorRT for RTX ------------------------------------------------------------------------------------------------


def test_rtx_captures_graphs_itself_and_keeps_its_kernels(
    monkeypatch: pytest.MonkeyPatch, tiny_graph: Path, tmp_path: Path, batches: list[Batch]
) -> None:
    plan = tmp_path / "a.plan"
    simulation = install(monkeypatch, "tensorrt-rtx", "1.7.1.116", RTX_3090)
    settings = PlanSettings(flavour="tensorrt-rtx", compute_capabilities=())
    entry = build_plan(tiny_graph, plan, settings, bucket_profiles((64,), 8, max_length=384)).entry
    for _ in range(2):
        with TensorRTSession.open(plan, entry, options=SessionOptions(cache=tmp_path)) as session:
            for _ in range(3):
                session.run(batches[1])
        kept = KeptFile(tmp_path / "tensorrt-rtx" / f"{entry.plan_sha256[:16]}.kernels").read()
        assert kept is not None
        assert kept.tobytes() == b"simulated kernels"
    assert "cudaGraphLaunch" not in simulation.faults.calls
    plan.write_bytes(plan.read_bytes()[:-3])
    with pytest.raises(BackendError, match=r"finds a\.plan invalid here: MALFORMED_ENGINE"):
        TensorRTSession.open(plan, entry)
    assert simulation.cuda.live() == NOTHING
