"""`densepack prove`, and what `--precision fastest` makes of what it finds."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.here import Host
from densepack_runtime.parity.proving import contenders
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.sessions.host_record import HostRecord, Proof, host_facts
from tests.command_line import CommandLine

LAST = Path(__file__).parents[2] / "last_version" / "bundle"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LAST, tmp_path / "bundle"))


def record_of(bundle: Path, *proofs: Proof) -> Path:
    """Write what the host has proven, where it is looked for."""
    opened = Bundle.open(bundle)
    return HostRecord(host_facts(Host.here()), opened.sha256, proofs).save(bundle.with_name("bundle.cache"))


def test_what_is_proven_is_told_kept_and_taken(densepack: CommandLine, bundle: Path) -> None:
    done = densepack("prove", bundle, "--json")
    assert done.code == 0, done.err
    assert done.next_step == f"densepack answer {bundle} --precision fastest"
    document = json.loads(done.out)
    tried = [(proof["backend"], proof["precision"]) for proof in document["proofs"]]
    assert tried == [(choice.backend, choice.precision) for choice in contenders(Bundle.open(bundle), Host.here())]
    assert all(proof["passed"] and proof["milliseconds"].keys() == {"1x32", "8x32"} for proof in document["proofs"])
    choice = choose_backend(Bundle.open(bundle), precision="fastest")
    assert (choice.backend, choice.precision) in tried
    assert choice.reason.startswith("the fastest of what is proven here (1x32 ")
    doctor = densepack("doctor", bundle)
    assert f"{choice.backend} {choice.precision}" in doctor.out
    table = densepack("doctor", bundle, "--json")
    assert json.loads(table.out)["fastest"] == f"{choice.backend} {choice.precision}"


def test_the_record_decides_and_a_backend_that_is_asked_for_bounds_it(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    record_of(
        bundle,
        Proof("onnxruntime", "fp32", milliseconds={"1x32": 3.0}),
        Proof("onnxruntime", "fp16", milliseconds={"1x32": 2.0}),
        Proof("openvino", "fp32", ("NaN",), milliseconds={}),
    )
    choice = choose_backend(opened, precision="fastest")
    assert (choice.backend, choice.precision) == ("onnxruntime", "fp16")
    assert "is fastest on this host" in choose_backend(opened, "openvino", "fastest").reason


@pytest.mark.parametrize("changed", ["nothing proven", "another bundle", "another host"])
def test_without_a_record_of_this_host_and_bundle_it_is_auto_and_the_cure_is_told(
    bundle: Path, changed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if changed != "nothing proven":
        record_of(bundle, Proof("onnxruntime", "fp16", milliseconds={"1x32": 2.0}))
    if changed == "another bundle":
        monkeypatch.setattr(Bundle, "sha256", "00")
    if changed == "another host":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    auto = choose_backend(Bundle.open(bundle))
    with caplog.at_level(logging.INFO), QuestionAnswerer.open(bundle, precision="fastest"):
        pass
    assert f"backend {auto.backend} {auto.precision}" in caplog.text
    assert f"densepack prove {bundle} finds out what is fastest on this host" in caplog.text


def test_a_default_that_is_wrong_here_is_exit_1(
    densepack: CommandLine, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = choose_backend(Bundle.open(bundle))
    other = Proof("onnxruntime", "fp16", milliseconds={"1x32": 1.0, "8x32": 2.0})
    wrong = Proof(default.backend, default.precision, ("cold start: NaN",))
    monkeypatch.setattr("densepack_runtime.commands.prove.prove", lambda *_, **__: (wrong, other))
    done = densepack("prove", bundle)
    assert done.code == 1
    assert done.error_lines == [
        f"error: {default.backend} fp32, which is taken here by default, is wrong: cold start: NaN"
    ]
    assert "onnxruntime fp16" in done.out
    taken = choose_backend(Bundle.open(bundle), precision="fastest")
    assert (taken.backend, taken.precision) == ("onnxruntime", "fp16")


def test_a_place_that_cannot_be_written_is_told(densepack: CommandLine, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = densepack("prove", bundle, "--cache", tmp_path / "file", "--json")
    assert done.code == 0
    assert "the record is not kept" in done.err


def test_a_host_that_has_no_backend_is_told_what_to_install(
    densepack: CommandLine, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densepack_runtime.commands.prove.contenders", lambda *_: [])
    assert densepack("prove", bundle).error_lines == [
        f"error: nothing that is installed here runs {bundle}: pip install 'densepack[cpu]' or [openvino]"
    ]
