"""ONNX Runtime does what was asked for or says why not: provider, threads, file, tensors."""

from __future__ import annotations

import os
import sys
import threading
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import densepack_runtime.sessions.onnxruntime_session as module
from densepack_runtime.errors import BackendError, InputError, MissingDependencyError
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession, onnxruntime_conflict, open_onnxruntime
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import INPUT_NAMES, OUTPUT_NAMES, Batch, Session

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def save_graph(
    path: Path,
    *,
    inputs: tuple[str, ...] = INPUT_NAMES,
    outputs: tuple[str, ...] = OUTPUT_NAMES,
    input_type: int = TensorProto.INT64,
    output_type: int = TensorProto.FLOAT,
) -> Path:
    """A graph with the tensors of a model: start = ids + mask, end = ids - types (of whatever inputs there are)."""
    axes = ["batch", "sequence"]
    nodes = [
        helper.make_node("Add", [inputs[0], inputs[1]], ["sum"]),
        helper.make_node("Sub", [inputs[0], inputs[-1]], ["difference"]),
        helper.make_node("Cast", ["sum"], [outputs[0]], to=output_type),
        helper.make_node("Cast", ["difference"], [outputs[-1]], to=output_type),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, input_type, axes) for name in inputs],
        [helper.make_tensor_value_info(name, output_type, axes) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_graph(tmp_path_factory.mktemp("graph") / "model.onnx")


# 1,000 sessions of a graph of a kilobyte: a leaked arena of 100 KiB each would be ten times as much.
LEAK_MIB = 10


def make_batch(rows: int, length: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    ids, mask, types = (rng.integers(0, 9, (rows, length)) for _ in range(3))
    return Batch(ids, mask, types)


def test_runs_and_keeps_to_the_protocol(graph: Path) -> None:
    session = OnnxRuntimeSession(graph, SessionOptions(threads=1))
    assert isinstance(session, Session)
    for rows, length in ((1, 1), (3, 17), (2, 4)):
        batch = make_batch(rows, length)
        logits = session.run(batch)
        assert logits.start.dtype == logits.end.dtype == np.float32
        np.testing.assert_array_equal(logits.start, batch.input_ids + batch.attention_mask)
        np.testing.assert_array_equal(logits.end, batch.input_ids - batch.token_type_ids)


def test_many_batches_come_back_in_order(graph: Path) -> None:
    batches = [make_batch(2, length, seed=length) for length in range(1, 20)]
    for batch, logits in zip(batches, OnnxRuntimeSession(graph).run_many(iter(batches)), strict=True):
        np.testing.assert_array_equal(logits.start, batch.input_ids + batch.attention_mask)


def test_a_closed_session_refuses_to_run(graph: Path) -> None:
    session = OnnxRuntimeSession(graph)
    session.close()
    session.close()
    with pytest.raises(BackendError, match=r"the session of model.onnx is closed"):
        session.run(make_batch(1, 4))
    with pytest.raises(BackendError, match="is closed"):
        list(session.run_many([make_batch(1, 4)]))


def test_one_session_serves_several_threads(graph: Path) -> None:
    session = OnnxRuntimeSession(graph, SessionOptions(threads=1))
    wrong: list[int] = []

    def work(seed: int) -> None:
        for length in range(1, 40):
            batch = make_batch(2, length, seed)
            if not np.array_equal(session.run(batch).start, batch.input_ids + batch.attention_mask):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc, Linux only")
def test_a_thousand_opens_leave_no_memory_behind(graph: Path) -> None:
    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cycle(times: int) -> None:
        for _ in range(times):
            session = OnnxRuntimeSession(graph, SessionOptions(threads=1))
            session.run(make_batch(1, 4))
            session.close()

    cycle(100)  # what the library and the allocator keep once
    before = resident_mib()
    cycle(1000)
    assert resident_mib() - before < LEAK_MIB


def test_a_batch_that_the_graph_refuses_is_an_error_with_its_shape(graph: Path) -> None:
    batch = make_batch(2, 4)
    odd = Batch(batch.input_ids, batch.attention_mask[:, :3], batch.token_type_ids)
    with pytest.raises(BackendError, match=r"failed on a batch of shape \(2, 4\)"):
        OnnxRuntimeSession(graph).run(odd)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"the ONNX file .*none.onnx is missing"):
        OnnxRuntimeSession(tmp_path / "none.onnx")


@pytest.mark.parametrize("keep", [0, 40, -10])
def test_a_damaged_file_is_named(tmp_path: Path, graph: Path, keep: int) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(graph.read_bytes()[:keep])
    with pytest.raises(BackendError, match=r"damaged.onnx"):
        OnnxRuntimeSession(path)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"inputs": ("ids", *INPUT_NAMES[1:])}, r"ids tensor\(int64\)"),
        ({"inputs": INPUT_NAMES[::2]}, r"input_ids tensor\(int64\), start_logits .*, token_type_ids"),
        ({"outputs": ("start_logits", "stop_logits")}, "stop_logits"),
        ({"input_type": TensorProto.INT32}, r"input_ids tensor\(int32\)"),
        ({"output_type": TensorProto.DOUBLE}, r"start_logits tensor\(double\)"),
    ],
)
def test_a_graph_with_other_tensors_is_refused(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    path = save_graph(tmp_path / "other.onnx", **change)
    with pytest.raises(BackendError, match=rf"other.onnx is not a graph of densepack: .*{shown}.*; needed are"):
        OnnxRuntimeSession(path)


def test_an_unknown_provider_is_refused(graph: Path) -> None:
    with pytest.raises(BackendError, match="unknown provider 'tpu'; known: cpu, cuda, tensorrt"):
        open_onnxruntime(graph, "tpu")


def test_fewer_than_one_thread_is_refused(graph: Path) -> None:
    with pytest.raises(InputError, match="threads must be at least 1, got 0"):
        OnnxRuntimeSession(graph, SessionOptions(threads=0))
    with pytest.raises(InputError, match="lanes must be at least 1, got 0"):
        SessionOptions(lanes=0)


class FakeRuntime:
    """Stands in for an onnxruntime-gpu: `takes` is the provider that the session ends up with."""

    def __init__(self, available: list[str], takes: str) -> None:
        self.available, self.takes = available, takes
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.threads = 0
        self.calls: list[str] = []

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        self.calls.append("preload_dlls")
        print("Failed to load libcudnn.so")

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802  # onnxruntime's name
        return SimpleNamespace()

    def InferenceSession(  # noqa: N802
        self, path: str, sess_options: Any, providers: list[tuple[str, dict[str, str]]]
    ) -> Any:
        self.calls.append("InferenceSession")
        self.asked, self.threads = providers, sess_options.intra_op_num_threads
        tensors = {
            kind: [SimpleNamespace(name=name, type=f"tensor({kind})") for name in names]
            for kind, names in (("int64", INPUT_NAMES), ("float", OUTPUT_NAMES))
        }
        return SimpleNamespace(
            get_providers=lambda: [self.takes, CPU],
            get_inputs=lambda: tensors["int64"],
            get_outputs=lambda: tensors["float"],
        )


def use_runtime(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> None:
    monkeypatch.setattr(module, "require", lambda name, extra: runtime)


def test_a_provider_that_is_not_there_is_an_error_with_the_cure(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    use_runtime(monkeypatch, FakeRuntime([CPU], CPU))
    with pytest.raises(BackendError, match=rf"no {CUDA} here \(it has {CPU}\): pip install 'densepack\[gpu\]'"):
        open_onnxruntime(graph, "cuda")


def test_a_provider_that_onnxruntime_silently_replaces_is_an_error(
    monkeypatch: pytest.MonkeyPatch, graph: Path
) -> None:
    use_runtime(monkeypatch, FakeRuntime([CUDA, CPU], takes=CPU))
    with pytest.raises(BackendError, match=f"{CUDA} was asked for and ONNX Runtime took {CPU}"):
        open_onnxruntime(graph, "cuda")


def test_only_the_provider_that_was_asked_for_is_offered(
    monkeypatch: pytest.MonkeyPatch, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = FakeRuntime([CUDA, CPU], takes=CUDA)
    use_runtime(monkeypatch, runtime)
    open_onnxruntime(graph, "cuda", threads=3, provider_options={"enable_cuda_graph": "1"})
    assert runtime.asked == [(CUDA, {"enable_cuda_graph": "1"})]
    assert runtime.threads == 3
    assert runtime.calls == ["preload_dlls", "InferenceSession"]
    assert capsys.readouterr().out == "", "stdout is for results"


def test_the_default_is_one_thread_a_physical_core(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    runtime = FakeRuntime([CPU], takes=CPU)
    use_runtime(monkeypatch, runtime)
    monkeypatch.setattr("densepack_runtime.sessions.options.usable_cores", lambda: 5)
    OnnxRuntimeSession(graph)
    assert runtime.threads == 5


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'densepack\[cpu\]'"):
        OnnxRuntimeSession(graph)
    with pytest.raises(MissingDependencyError, match=r"pip install 'densepack\[gpu\]'"):
        open_onnxruntime(graph, "cuda")


@pytest.mark.parametrize(
    ("installed", "conflict"),
    [
        (set(), False),
        ({"onnxruntime"}, False),
        ({"onnxruntime-gpu"}, False),
        ({"onnxruntime", "onnxruntime-gpu"}, True),
    ],
)
def test_two_distributions_of_onnxruntime_are_a_conflict(
    monkeypatch: pytest.MonkeyPatch, graph: Path, installed: set[str], conflict: bool
) -> None:
    def distribution(name: str) -> object:
        if name not in installed:
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(module, "distribution", distribution)
    text = onnxruntime_conflict()
    assert (text is not None) == conflict
    if text is not None:
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in text
        with pytest.raises(BackendError, match="both onnxruntime and onnxruntime-gpu are installed"):
            OnnxRuntimeSession(graph)
