"""A host proves a bundle: what crashes, hangs or is wrong there is named, and all else is judged all the same."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from densepack_runtime.backends import BACKENDS, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, BundleError, ParityError
from densepack_runtime.host.here import Host
from densepack_runtime.parity import proving
from densepack_runtime.parity.proving import contenders, prove, refuse_wrong, shapes_of
from densepack_runtime.sessions.host_record import HostRecord, Proof, host_facts
from densepack_runtime.sessions.options import SessionOptions
from tests.runtime.parity.planted_backends import PLANTED

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
FINDINGS = {
    "ends_its_process": "died before it was done (SIGSEGV)",
    "hangs": "it hangs: no answer within 8 s",
    "gives_nan": "cold start: some logits are not finite",
    "answers_wrongly": "cold start: largest |Δlogit|",
    "is_wrong_at_one_token": "cold start: one token alone, and all padding but one: logits differ by 1",
    "is_wrong_in_large_batches": "cold start: the largest batch: logits differ by",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(LAST, tmp_path / "bundle"))


def test_every_planted_fault_is_named_and_the_others_are_judged(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, backend in PLANTED.items():
        monkeypatch.setitem(BACKENDS, name, backend)
    monkeypatch.setattr(proving, "JUDGEMENT_SECONDS", 8.0)
    names = [*PLANTED, "onnxruntime"]
    proofs = prove(bundle, [choose_backend(bundle, name) for name in names], threads=1)
    assert [proof.backend for proof in proofs] == names
    for proof in proofs[:-1]:
        assert not proof.passed
        assert any(FINDINGS[proof.backend] in finding for finding in proof.findings), proof.findings
        assert proof.milliseconds == {}
    sound = proofs[-1]
    assert sound.passed, sound.findings
    assert sound.span_agreement == 100
    assert list(sound.milliseconds) == ["1x32", "8x32"]
    assert all(time > 0 for time in sound.milliseconds.values())


@pytest.mark.parametrize("name", ["onnxruntime", "answers_wrongly", "ends_its_process"])
def test_one_choice_is_refused_where_it_is_wrong(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for planted, backend in PLANTED.items():
        monkeypatch.setitem(BACKENDS, planted, backend)
    choice, options = choose_backend(bundle, name), SessionOptions(threads=1)
    wrong = {
        "answers_wrongly": (ParityError, r"fp32 is wrong here: .*Δlogit"),
        "ends_its_process": (BackendError, "SIGSEGV"),
    }
    with pytest.raises(wrong[name][0], match=wrong[name][1]) if name in wrong else nullcontext():
        refuse_wrong(bundle, choice, options)


def test_what_could_open_here_is_tried(bundle: Bundle) -> None:
    found = {(choice.backend, choice.precision) for choice in contenders(bundle, Host.here())}
    assert ("onnxruntime", "fp32") in found
    assert {name for name, _ in found} <= {name for name, each in BACKENDS.items() if each.precisions_on(Host.here())}


def test_a_long_model_is_timed_at_two_lengths(bundle: Bundle) -> None:
    object.__setattr__(bundle.manifest, "max_length", 384)
    assert shapes_of(bundle) == ((1, 128), (8, 128), (1, 384), (8, 384))


def test_a_bundle_without_a_reference_cannot_be_proven(bundle: Bundle) -> None:
    del bundle.manifest.files["reference.npz"]
    with pytest.raises(BundleError, match=r"has no reference\.npz"):
        prove(bundle, [])
    with pytest.raises(BundleError, match=r"no answers to prove it by .* without --no-parity"):
        refuse_wrong(bundle, choose_backend(bundle, "onnxruntime"), SessionOptions())


# --- the record -------------------------------------------------------------------------------------------------------


def record(*proofs: Proof, bundle: str = "ab") -> HostRecord:
    return HostRecord(host_facts(Host.here()), bundle, proofs)


def test_a_record_is_read_as_it_was_written_and_only_for_its_host_and_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Host.here()
    written = record(Proof("onnxruntime", "fp32", (), 100.0, 1e-6, {"1x32": 2.5}, 100.0), Proof("x", "int8", ("NaN",)))
    written.save(tmp_path)
    assert HostRecord.load(tmp_path, "ab", here) == written
    assert HostRecord.load(tmp_path, "cd", here) is None
    assert HostRecord.load(tmp_path / "nowhere", "ab", here) is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert HostRecord.load(tmp_path, "ab", here) is None


def test_the_fastest_is_the_one_that_passed_with_the_smallest_mean_of_ratios() -> None:
    slow = Proof("a", "fp32", milliseconds={"1x32": 1.0, "8x32": 9.0})
    fast = Proof("b", "bf16", milliseconds={"1x32": 2.0, "8x32": 3.0})
    wrong = Proof("c", "int8", ("wrong",), milliseconds={"1x32": 0.1, "8x32": 0.1})
    assert record(slow, fast, wrong).fastest() == fast
    assert record(slow, fast, wrong).fastest(lambda proof: proof.backend == "a") == slow
    assert record(wrong).fastest() is None
