"""ONNX Runtime with bound buffers and buckets: the steps of the GPU session, on the CPU provider."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from densepack_export.graphs.onnx_export import random_batch
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.sessions import onnxruntime_gpu
from densepack_runtime.sessions.onnxruntime_gpu import (
    OnnxRuntimeGpuSession,
    engine_cache_options,
    engines_name,
    provider_options,
)
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits
from densepack_runtime.structure import LayerStructure, Structure

# Padding changes the order of summation, in float32.
TOLERANCE = 1e-4
SHAPES = ((1, 1), (3, 17), (5, 70), (3, 17), (8, 128))


@pytest.fixture(scope="module")
def graph(default_bundle: Path) -> Path:
    return Bundle.open(default_bundle).graph("fp32")


@pytest.fixture
def session(graph: Path) -> Iterator[OnnxRuntimeGpuSession]:
    with OnnxRuntimeGpuSession(graph, provider="cpu", options=SessionOptions(max_length=384)) as opened:
        yield opened


def batches() -> list[Batch]:
    structure = Structure(30522, 512, 2, 384, 12, 1536, (LayerStructure((), (), 0),))
    return [random_batch(structure, *shape) for shape in SHAPES]


def difference(left: Logits, right: Logits, batch: Batch) -> float:
    real = batch.attention_mask.astype(bool)
    return float(max(np.abs(left.start - right.start)[real].max(), np.abs(left.end - right.end)[real].max()))


def test_buckets_change_no_answer(session: OnnxRuntimeGpuSession, graph: Path) -> None:
    with OnnxRuntimeSession(graph) as plain:
        for batch, logits in zip(batches(), session.run_many(batches()), strict=True):
            assert logits.start.shape == batch.shape
            assert difference(plain.run(batch), logits, batch) < TOLERANCE


def test_more_shapes_than_are_kept(
    session: OnnxRuntimeGpuSession, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "GRAPHS_KEPT", 1)
    with OnnxRuntimeSession(graph) as plain:
        for batch in batches():
            assert difference(plain.run(batch), session.run(batch), batch) < TOLERANCE


def test_threads_take_turns(session: OnnxRuntimeGpuSession) -> None:
    several = batches()
    expected = [session.run(batch) for batch in several]
    faults: list[float] = []

    def work() -> None:
        for batch, wanted in zip(several, expected, strict=True):
            faults.append(difference(wanted, session.run(batch), batch))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == 4 * len(several)
    assert max(faults) == 0


def test_too_long_and_closed(session: OnnxRuntimeGpuSession) -> None:
    ones = np.ones((1, 385), dtype=np.int64)
    with pytest.raises(InputError, match="a batch of 1x385 is longer than the 384 tokens"):
        session.run(Batch(ones, ones, ones))
    session.close()
    with pytest.raises(BackendError, match="is closed"):
        session.run(batches()[0])


def test_options_of_the_providers(tmp_path: Path) -> None:
    assert provider_options("cuda", SessionOptions()) == {"enable_cuda_graph": "1"}
    options = provider_options("tensorrt", SessionOptions(max_length=384, cache=tmp_path))
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1,token_type_ids:1x1"
    assert options["trt_profile_max_shapes"] == "input_ids:64x384,attention_mask:64x384,token_type_ids:64x384"
    assert not any("cache" in name for name in options)
    assert engine_cache_options(None) == {}
    assert engine_cache_options(tmp_path)["trt_engine_cache_path"] == str(tmp_path)


def test_everything_that_decides_names_the_folder_of_engines() -> None:
    """ONNX Runtime names an engine after the graph's nodes: two checkpoints of one structure would share it."""
    told = provider_options("tensorrt", SessionOptions(max_length=384))
    longer = provider_options("tensorrt", SessionOptions(max_length=512))
    names = [engines_name("a", told, "1"), engines_name("b", told, "1"), engines_name("a", longer, "1")]
    assert len({*names, engines_name("a", told, "2")}) == 4
    assert engines_name("a", told, "1") == names[0]


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_on_a_gpu(graph: Path, cuda_graphs: bool) -> None:
    with (
        OnnxRuntimeSession(graph) as plain,
        OnnxRuntimeGpuSession(graph, provider="cuda", options=SessionOptions(cuda_graphs=cuda_graphs)) as on_gpu,
    ):
        for batch in batches() * 3:
            assert difference(plain.run(batch), on_gpu.run(batch), batch) < 1e-2
