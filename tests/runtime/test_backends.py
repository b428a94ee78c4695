"""Which backend is taken, and what is said about it."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from densepack_export.bench.names import variants
from densepack_runtime.backends import BACKENDS, Backend, Runnable, cache_of, choose_backend, open_choice, register
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.here import Host
from densepack_runtime.parity.ladder import open_rungs
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Session
from tests.command_line import CommandLine
from tests.runtime.tensorrt_plans.test_choice import H100, INSTALLED


@pytest.fixture(scope="module")
def bundle(default_bundle: Path) -> Bundle:
    return Bundle.open(default_bundle)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else find_spec(name))


def test_without_a_gpu_openvino_is_taken(bundle: Bundle) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    assert str(choose_backend(bundle, host=Host(None, INSTALLED))) == "openvino fp32: no NVIDIA GPU here"
    assert choose_backend(bundle, precision="bf16", host=Host(None, {})).backend == "openvino"
    half = choose_backend(bundle, precision="fp16", host=Host(None, {}))
    assert str(half) == "onnxruntime fp16: no NVIDIA GPU here; OpenVINO does not compute in fp16"
    on_gpu = choose_backend(bundle, precision="bf16", host=Host(H100, INSTALLED))
    assert on_gpu.backend == "openvino"
    assert "bf16 was asked for, which is OpenVINO's" in on_gpu.reason


def test_without_openvino_onnxruntime_is_taken(bundle: Bundle, without_openvino: None) -> None:
    assert str(choose_backend(bundle, host=Host(None, INSTALLED))) == "onnxruntime fp32: no NVIDIA GPU here"
    assert choose_backend(bundle, precision="fp16", host=Host(None, {})).precision == "fp16"
    with pytest.raises(BackendError, match="onnxruntime computes in fp32 or fp16, not in bf16: .*--backend openvino"):
        choose_backend(bundle, precision="bf16", host=Host(None, {}))


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime-cuda", "onnxruntime"])
def test_a_precision_that_a_backend_has_not(bundle: Bundle, backend: str) -> None:
    with pytest.raises(BackendError, match=f"{backend} computes in .*, not in bf16"):
        choose_backend(bundle, backend, "bf16")


def test_on_a_gpu_without_a_plan_that_fits(bundle: Bundle, without_openvino: None) -> None:
    choice = choose_backend(bundle, host=Host(H100, INSTALLED, providers=("CUDAExecutionProvider",)))
    assert (choice.backend, choice.precision) == ("onnxruntime-cuda", "fp16")
    assert "no plan fits: the bundle has no plan: densepack build-engine" in choice.reason
    choice = choose_backend(bundle, host=Host(H100, INSTALLED, providers=()))
    assert choice.backend == "onnxruntime"
    assert "onnxruntime has no CUDA provider" in choice.reason


def test_what_is_asked_for_is_taken_or_refused(bundle: Bundle) -> None:
    assert choose_backend(bundle, "onnxruntime-cuda").reason == "asked for"
    with pytest.raises(BackendError, match="unknown backend 'tpu'; known: auto, tensorrt, onnxruntime-tensorrt"):
        choose_backend(bundle, "tpu")
    with pytest.raises(BackendError, match="no TensorRT plan can run here: the bundle has no plan"):
        choose_backend(bundle, "tensorrt")
    if not Host.here().has_provider("CUDAExecutionProvider"):
        with pytest.raises(BackendError, match="onnxruntime has no CUDAExecutionProvider here"):
            open_choice(bundle, choose_backend(bundle, "onnxruntime-cuda"))


def test_what_was_chosen_is_opened(bundle: Bundle) -> None:
    choice = choose_backend(bundle, "onnxruntime")
    assert str(choice) == "onnxruntime fp32: asked for"
    with open_choice(bundle, choice) as session:
        assert isinstance(session, OnnxRuntimeSession)


def test_what_a_backend_compiles_lies_beside_the_bundle(bundle: Bundle) -> None:
    place = cache_of(bundle)
    assert place.name == "bundle.cache"
    assert place.parent == bundle.folder.resolve().parent


# --- one registration ------------------------------------------------------------------------------------------------


def test_a_made_up_backend_takes_one_registration(
    default_bundle: Path, densepack: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the help, in doctor, among the sides of a benchmark and the rungs of the ladder; that is all."""

    def open_abacus(model: Runnable, options: SessionOptions) -> Session:
        return OnnxRuntimeSession(model.file, options)

    monkeypatch.setitem(BACKENDS, "abacus", BACKENDS["onnxruntime"])  # taken back at the end
    del BACKENDS["abacus"]
    register(Backend("abacus", ("fp32", "fp16"), open_abacus))

    assert "abacus" in densepack("answer", "--help").out
    facts = json.loads(densepack("doctor", "--json").out)
    assert facts["backend abacus"] == ["fp32", "fp16"]
    asked = ("-q", "Who is it?", "-c", "It is Ada.", "--backend")
    answered, plain = (densepack("answer", default_bundle, *asked, name) for name in ("abacus", "onnxruntime"))
    assert (answered.code, answered.out) == (0, plain.out)
    assert "backend abacus fp32: asked for" in answered.err
    assert {"packed-abacus", "dense-abacus-fp16"} <= set(variants())
    cells = ("--batches", "1", "--lengths", "16", "--rounds", "1", "--no-memory", "--json")
    done = densepack("bench", f"{default_bundle}@packed-abacus-fp16", *cells)
    assert json.loads(done.out)["sides"][0]["backend"] == "abacus", done.err
    bundle = Bundle.open(default_bundle)
    with ExitStack() as opened:
        names = [rung.name for rung in open_rungs(bundle, opened)]
    assert names[-2:] == ["abacus FP32", "abacus FP16"]
    with pytest.raises(InputError, match="a backend named 'abacus' is registered already"):
        register(BACKENDS["abacus"])
