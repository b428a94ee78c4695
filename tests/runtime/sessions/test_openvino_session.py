"""OpenVINO does what was asked for or says why not; without its telemetry, and with the answers of the graph."""

from __future__ import annotations

import ctypes.util
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import densepack_runtime.sessions.openvino_session as module
from densepack_runtime.backends import choose_backend, open_choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, MissingDependencyError
from densepack_runtime.host.files import sha256_of
from densepack_runtime.sessions import openvino_int8
from densepack_runtime.sessions.compile_cache import KeptFile
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.openvino_int8 import quantised
from densepack_runtime.sessions.openvino_session import (
    OpenVinoSession,
    cache_name,
    compile_options,
    openvino_precisions,
)
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, ComputePrecision, Session
from tests.conftest import REPOSITORY
from tests.runtime.sessions.test_onnxruntime_session import LEAK_MIB, make_batch, save_graph

pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_graph(tmp_path_factory.mktemp("graph") / "model.onnx")


def test_runs_and_keeps_to_the_protocol(graph: Path) -> None:
    session = OpenVinoSession(graph, options=SessionOptions(threads=1))
    assert isinstance(session, Session)
    batches = [make_batch(rows, length) for rows, length in ((1, 1), (3, 17), (2, 4))]
    for batch, logits in zip(batches, session.run_many(batches), strict=True):
        assert logits.start.dtype == logits.end.dtype == np.float32
        np.testing.assert_array_equal(logits.start, batch.input_ids + batch.attention_mask)
        np.testing.assert_array_equal(logits.end, batch.input_ids - batch.token_type_ids)


def test_logits_are_not_overwritten_by_the_next_batch(graph: Path) -> None:
    with OpenVinoSession(graph) as session:
        first = session.run(make_batch(2, 8, seed=1))
        kept = first.start.copy()
        session.run(make_batch(2, 8, seed=2))
    np.testing.assert_array_equal(first.start, kept)


def test_a_closed_session_refuses_to_run(graph: Path) -> None:
    session = OpenVinoSession(graph)
    session.close()
    session.close()
    with pytest.raises(BackendError, match=r"the session of model.onnx is closed"):
        session.run(make_batch(1, 4))


def test_one_session_serves_several_threads(graph: Path) -> None:
    session = OpenVinoSession(graph, options=SessionOptions(threads=1))
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
def test_many_opens_leave_no_memory_behind(graph: Path) -> None:
    def cycle(times: int) -> float:
        for _ in range(times):
            with OpenVinoSession(graph, options=SessionOptions(threads=1)) as session:
                session.run(make_batch(1, 4))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = cycle(30)
    assert cycle(200) - before < LEAK_MIB


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_bundle_gives_the_same_answers(default_bundle: Path, precision: ComputePrecision) -> None:
    if precision not in openvino_precisions():
        pytest.skip(f"this processor does not multiply in {precision}")
    bundle = Bundle.open(default_bundle)
    rng = np.random.default_rng(0)
    mask = (np.arange(70) < np.array([70, 33, 5])[:, None]).astype(np.int64)
    batch = Batch(rng.integers(999, 20_000, (3, 70)) * mask, mask, mask * (np.arange(70) > 9))
    with (
        open_choice(bundle, choose_backend(bundle, "openvino", precision)) as session,
        OnnxRuntimeSession(bundle.graph("fp32")) as reference,
    ):
        found, wanted = session.run(batch), reference.run(batch)
    real = mask > 0
    difference = max(
        np.abs(found.start - wanted.start)[real].max(),
        np.abs(found.end - wanted.end)[real].max(),
    )
    low, high = (0, 1e-4) if precision == "fp32" else (1e-3, 1)
    assert low <= difference < high
    assert list((bundle.folder.with_name("bundle.cache") / "openvino").glob(f"{precision}-*.blob"))


def blobs(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*.blob")}


def test_what_was_compiled_for_one_precision_is_not_taken_for_another(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names of the blobs: only processors with AMX end the process over the wrong one."""
    monkeypatch.setattr(module, "openvino_precisions", lambda: ("fp32", "bf16", "int8"))
    seen: list[set[str]] = []
    for precision in ("fp32", "bf16", "int8", "fp32"):
        OpenVinoSession(graph, precision=precision, options=SessionOptions(threads=1, cache=tmp_path)).close()
        seen.append(blobs(tmp_path))
    fp32, bf16, int8, again = seen
    assert [len(names) for names in seen] == [1, 2, 3, 3]
    assert fp32 < bf16 < int8
    assert again == int8, "the second session of a precision takes what the first one left"


def test_what_was_kept_computes_the_same_and_is_not_written_again(graph: Path, tmp_path: Path) -> None:
    batch, options = make_batch(3, 17), SessionOptions(threads=1, cache=tmp_path)
    with OpenVinoSession(graph, options=options) as cold:
        wanted = cold.run(batch)
    [blob] = tmp_path.rglob("*.blob")
    written = blob.stat().st_mtime_ns
    with OpenVinoSession(graph, options=options) as warm:
        gc.collect()  # the memory that the model computes from is the session's own
        np.testing.assert_array_equal(warm.run(batch).start, wanted.start)
        np.testing.assert_array_equal(warm.run(batch).end, wanted.end)
    assert blob.stat().st_mtime_ns == written


@pytest.mark.parametrize("harm", [b"", b"foreign", None])
def test_a_damaged_or_foreign_blob_is_told_about_and_replaced(
    graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: bytes | None
) -> None:
    """One flipped bit in the weights is nothing that OpenVINO notices: it computes with it."""
    options, batch = SessionOptions(threads=1, cache=tmp_path), make_batch(2, 5)
    OpenVinoSession(graph, options=options).close()
    [blob] = tmp_path.rglob("*.blob")
    whole = blob.read_bytes()
    if harm is None:
        blob.write_bytes(bytes([*whole[:-40], whole[-40] ^ 1, *whole[-39:]]))
    else:
        KeptFile(blob).write(harm)  # whole as a file of the cache, and nothing to OpenVINO
    with OpenVinoSession(graph, options=options) as session:
        np.testing.assert_array_equal(session.run(batch).start, batch.input_ids + batch.attention_mask)
    told = "damaged" if harm is None else "not what this OpenVINO wrote"
    assert [record.getMessage() for record in caplog.records] == [f"{blob} is {told}: compiling anew"]
    assert len(blob.read_bytes()) == len(whole)
    OpenVinoSession(graph, options=options).close()
    assert len(caplog.records) == 1


def test_everything_that_decides_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = save_graph(tmp_path / "model.onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(graph.read_bytes() + b"\n")
    fp32, bf16 = (compile_options(precision, 2, bfloat16=True) for precision in ("fp32", "bf16"))

    def name(*of: Path, precision: Any = "fp32", options: Any = fp32, version: str = "2026.4.1") -> str:
        return cache_name([sha256_of(file) for file in of or (graph,)], precision, options, version)

    names = [
        name(),
        name(other),
        name(graph, other),  # the ranges of INT8
        name(precision="bf16"),
        name(precision="bf16", options=bf16),
        name(version="2026.5.0"),
        *(name(options={**fp32, option: "other"}) for option in fp32),
    ]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    names.append(name())
    monkeypatch.setattr(module, "processor_features", lambda: "Intel(R) Xeon(R): amx_tile amx_bf16 amx_int8")
    names.append(name())
    assert len(set(names)) == len(names)
    assert name() == names[-1]


def test_a_precision_that_cannot_be(graph: Path) -> None:
    with pytest.raises(BackendError, match="OpenVINO computes in fp32, bf16, int8, not in fp16"):
        OpenVinoSession(graph, precision="fp16")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_processor_that_cannot(graph: Path, monkeypatch: pytest.MonkeyPatch, precision: ComputePrecision) -> None:
    monkeypatch.setattr(module, "openvino_precisions", lambda: ("fp32",))
    with pytest.raises(BackendError, match=f"does not multiply in {precision}: use --precision fp32"):
        OpenVinoSession(graph, precision=precision)


def test_int8_weights_are_the_nearest() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((40, 24)) * rng.uniform(1e-4, 10, (40, 1))).astype(np.float32)
    weights[7] = 0
    values, scales = quantised(weights)
    assert values.dtype == np.int8
    assert scales.shape == (40, 1)
    assert np.abs(values).max(axis=1)[weights.any(axis=1)].min() == 127
    assert (np.abs(values * scales - weights) <= 0.5001 * scales).all()
    assert not (values * scales)[7].any()


@pytest.mark.skipif("int8" not in openvino_precisions(), reason="this processor does not multiply in int8")
@pytest.mark.parametrize("inputs", [16, 17, 23, 63, 64, 65, 127, 199])
def test_int8_computes_products_of_any_width(inputs: int) -> None:
    """As a session compiles them: OpenVINO loses half of some narrow products whose weights are INT8."""
    openvino = module.import_openvino()
    rng = np.random.default_rng(inputs)
    weights, values = (rng.standard_normal(shape).astype(np.float32) for shape in ((384, inputs), (64, inputs)))
    factor = openvino.opset13.parameter([-1, inputs], np.float32)
    model = openvino.Model([openvino.opset13.matmul(factor, openvino.opset13.constant(weights), False, True)], [factor])
    openvino_int8.with_int8_weights(openvino, model)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in openvino_precisions() else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": openvino_int8.GROUP_SIZE,
    }
    found = openvino.Core().compile_model(model, "CPU", options)([values])[0]
    wanted = values @ weights.T
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_int8_is_for_every_wide_product_with_weights_but_the_head(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    openvino = module.import_openvino()
    model = openvino.Core().read_model(str(bundle.graph("fp32")))
    layers = bundle.manifest.model.structure.layers
    attention = sum(4 for layer in layers if layer.heads)
    wide = [len(layer.ffn_units) >= openvino_int8.GROUP_SIZE for layer in layers if layer.ffn_units]
    assert not all(wide)
    ffn = len(wide) + sum(wide)
    assert openvino_int8.with_int8_weights(openvino, model) == attention + ffn
    kinds = [node.get_element_type().get_type_name() for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count("i8") == attention + ffn


def test_int8_is_seen_where_it_is_and_missed_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = module.import_openvino()
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("the processor's abilities are read from /proc, Linux only")
    able = any(name in flags.read_text(encoding="ascii") for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    assert openvino_int8.multiplies_int8(openvino) == able
    compile_model = openvino.Core.compile_model

    def without(core: object, model: object, device: str, options: dict[str, object]) -> object:
        return compile_model(core, model, device, {**options, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})

    monkeypatch.setattr(openvino.Core, "compile_model", without)
    assert not openvino_int8.multiplies_int8(openvino)


@pytest.mark.parametrize("keep", [0, 40, -10])
def test_a_damaged_file_is_named(tmp_path: Path, graph: Path, keep: int) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(graph.read_bytes()[:keep])
    with pytest.raises(BackendError, match=r"OpenVINO cannot load .*damaged.onnx"):
        OpenVinoSession(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"the ONNX file .*none.onnx is missing"):
        OpenVinoSession(tmp_path / "none.onnx")


def test_a_foreign_graph_is_refused(tmp_path: Path) -> None:
    path = save_graph(tmp_path / "foreign.onnx", input_type=TensorProto.INT32)
    with pytest.raises(BackendError, match="foreign.onnx is not a graph of densepack: .*input_ids i32.*needed are"):
        OpenVinoSession(path)


def test_a_batch_that_the_graph_refuses_is_an_error_with_its_shape(graph: Path) -> None:
    batch = make_batch(2, 4)
    odd = Batch(batch.input_ids, batch.attention_mask[:, :3], batch.token_type_ids)
    with pytest.raises(BackendError, match=r"OpenVINO failed on a batch of shape \(2, 4\)"):
        OpenVinoSession(graph).run(odd)


def test_without_the_package(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'densepack\[openvino\]'"):
        OpenVinoSession(graph)


@pytest.mark.parametrize("name", ["tcmalloc_minimal", "jemalloc"])
def test_it_runs_under_another_allocator(graph: Path, name: str) -> None:
    library = ctypes.util.find_library(name)
    if library is None:
        pytest.skip(f"{name} is not installed")
    code = f"""
from densepack_runtime.sessions.openvino_session import OpenVinoSession
from tests.runtime.sessions.test_onnxruntime_session import make_batch
print(OpenVinoSession({str(graph)!r}).run(make_batch(2, 8)).start.shape)
"""
    environment = {**os.environ, "LD_PRELOAD": library}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "(2, 8)\n"), done.stderr


def test_its_telemetry_stays_out(graph: Path) -> None:
    """Neither loaded by us nor, afterwards, hidden from others; and no socket is opened."""
    code = f"""
import socket, sys
def refuse(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = refuse
from densepack_runtime.sessions.openvino_session import OpenVinoSession
OpenVinoSession({str(graph)!r}).close()
assert "openvino" in sys.modules
assert not any(name.startswith("openvino_telemetry") for name in sys.modules), "telemetry is loaded"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
