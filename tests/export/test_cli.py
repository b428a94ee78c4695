"""The command line: results on stdout, the story on stderr, one line for an error, and exit codes that tell."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.core import TyperGroup
from typer.main import get_command

from densepack_export.cli import GROUPS
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import app
from densepack_runtime.host.gpus import nvidia_gpus
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path, score_predictions
from densepack_runtime.sessions.openvino_session import openvino_precisions
from tests.command_line import CommandLine
from tests.conftest import BUNDLE_QUESTIONS, REPOSITORY

TINY = REPOSITORY / "tests" / "last_version"
TINY_BUILD = ("--squad", TINY / "train.json", "--max-length", 32, "--doc-stride", 8, "--no-engine")
# Nothing here is near these; they only keep a hanging process from hanging the suite.
SECONDS = 120
EVALUATED = 60


def test_wrong_usage_is_exit_2(densepack: CommandLine, default_bundle: Path) -> None:
    assert densepack("build").code == 2
    assert densepack("nonsense").code == 2
    assert densepack("answer", default_bundle).code == 2
    assert densepack("answer", default_bundle, "-q", "Who?").code == 2
    for numbers in ("0", "64,x", ""):
        outcome = densepack("bench", "seed", "--batches", numbers)
        assert outcome.code == 2
        assert "positive whole numbers separated by commas are needed" in " ".join(outcome.err.split())
    assert densepack("build-engine", default_bundle, "--lengths", "64,x").code == 2


def test_an_error_is_one_line_and_exit_1(densepack: CommandLine, tmp_path: Path) -> None:
    outcome = densepack("eval", tmp_path)
    assert outcome.code == 1
    assert outcome.out == ""
    [line] = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "is not a bundle" in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "densepack_export.cli", "--debug", "eval", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "BundleError" in done.stderr


def test_every_command_stands_in_a_group(densepack: CommandLine) -> None:
    """In the order of the groups, each with the path through them below."""
    shown = densepack().out
    path = ("build", "build-engine", "pack", "triton", "answer", "eval", "serve", "parity", "doctor", "shrink", "prune")
    places = [shown.index(f"│ {name} ") for name in path]
    assert places == sorted(places)
    assert all(f"─ {group} ─" in shown for group in GROUPS)
    assert "─ Commands ─" not in shown
    assert "The usual path: densepack build" in shown


def test_every_command_shows_an_example_with_options_that_it_has() -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        *_, example = (command.help or "").split("Example: ")
        assert example.startswith(f"densepack {name} "), name
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z][a-z0-9-]*", example)) <= known, example


def test_the_shell_completes_commands_and_options(densepack: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DENSEPACK_COMPLETE", "complete_bash")
    for typed, completed in (("densepack arch", ["archive"]), ("densepack answer owner/name --comp", ["--compat"])):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
        assert densepack().out.split() == completed


def test_version(densepack: CommandLine) -> None:
    outcome = densepack("--version")
    assert (outcome.code, outcome.out) == (0, f"densepack {version('densepack')}\n")


def test_predictions_go_into_a_device_and_through_a_link(
    densepack: CommandLine, default_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.json").symlink_to("predictions.json")
    for target in ("/dev/null", tmp_path / "link.json"):
        assert densepack("eval", default_bundle, "--limit", 2, "--predictions", target).code == 0
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link.json").is_symlink()
    assert len(json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))) == 2


def test_texts_that_look_like_markup_pass_the_gate(
    densepack: CommandLine, default_bundle: Path, default_checkpoint: Path, tmp_path: Path
) -> None:
    context = "The [i]bridge[/i] was built by [x]Anna Berg[/x] :smile: in 1901."
    answer = {"text": "Anna Berg", "answer_start": context.index("Anna")}
    question = {"id": "[/q]", "question": "Who built the [b]bridge?", "answers": [answer]}
    squad = {"version": "1.1", "data": [{"title": "[/t]", "paragraphs": [{"context": context, "qas": [question]}]}]}
    path = tmp_path / "dev[i].json"
    path.write_text(json.dumps(squad), encoding="utf-8")
    outcome = densepack("parity", default_bundle, "--checkpoint", default_checkpoint, "--squad", path)
    assert outcome.code == 0, outcome.err


def test_inspect(densepack: CommandLine, default_checkpoint: Path) -> None:
    document = json.loads(densepack("inspect", default_checkpoint, "--json").out)
    assert document["parameters_packed"] == 14_696_522
    assert [len(layer["heads"]) for layer in document["layers"]] == [2, 6, 8, 7, 7, 4]
    outcome = densepack("inspect", default_checkpoint)
    assert "14,696,522" in outcome.out
    assert "25.984 %" in outcome.out


def test_pack_writes_what_it_says(densepack: CommandLine, default_checkpoint: Path, tmp_path: Path) -> None:
    outcome = densepack("pack", default_checkpoint, tmp_path / "packed")
    assert outcome.code == 0
    assert "14,696,522" in outcome.out
    again = densepack("pack", default_checkpoint, tmp_path / "packed")
    assert again.code == 1
    assert "--overwrite" in again.error_lines[0]
    document = json.loads(
        densepack("pack", tmp_path / "packed", tmp_path / "published", "--format", "transformers", "--json").out
    )
    assert document["parameters"] == 14_696_522
    assert document["max_abs_logit"] < 1e-3
    back = json.loads(densepack("inspect", tmp_path / "published", "--json").out)
    assert back["parameters_packed"] == 14_696_522


def test_export(densepack: CommandLine, tmp_path: Path) -> None:
    export = ("export", TINY / "start", tmp_path / "m.onnx")
    document = json.loads(densepack(*export, "--precision", "fp16", "--json").out)
    assert document["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert densepack(*export).code == 1
    assert densepack(*export, "--precision", "fp8").code == 2


def test_answer_one_question(densepack: CommandLine, default_bundle: Path, tmp_path: Path) -> None:
    context = "The bridge was built by Anna Berg in 1901."
    outcome = densepack("answer", default_bundle, "-q", "Who built the bridge?", "-c", context)
    assert outcome.code == 0
    assert outcome.out == "Anna Berg\n"
    (tmp_path / "context.txt").write_text(context, encoding="utf-8")
    document = json.loads(
        densepack(
            "answer",
            default_bundle,
            "-q",
            "Who built the bridge?",
            "--context-file",
            tmp_path / "context.txt",
            "--json",
        ).out
    )
    assert (document["answer"], document["start"], document["end"]) == ("Anna Berg", 24, 33)
    compat = json.loads(
        densepack("answer", default_bundle, "-q", "Who built the bridge?", "-c", context, "--compat", "--json").out
    )
    assert compat["answer"] == "Anna Berg"
    assert compat["score"] != document["score"]


def test_case_of_the_question_does_not_matter(densepack: CommandLine, default_bundle: Path) -> None:
    context = "The English engineer Marta Lindqvist built the lighthouse in 1887."
    answers = [
        densepack("answer", default_bundle, "-q", question, "-c", context).out
        for question in ("Who was the English engineer?", "who was the english engineer?")
    ]
    assert answers[0] == answers[1] == "Marta Lindqvist\n"


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        ("", "A dog.", "the question is empty"),
        ("Who?", "", "the context is empty"),
        ("Who?", "bad \udc80 text", "the context is not valid Unicode"),
        ("why " * 400, "because " * 500, "the question has 400 tokens"),
    ],
    ids=["empty question", "empty context", "lone surrogate", "over-long question"],
)
def test_texts_that_cannot_be_used(
    densepack: CommandLine, default_bundle: Path, question: str, context: str, message: str
) -> None:
    outcome = densepack("answer", default_bundle, "-q", question, "-c", context)
    assert outcome.code == 1
    [line] = outcome.error_lines
    assert message in line


def test_right_to_left_text_is_answered(densepack: CommandLine, default_bundle: Path) -> None:
    context = "العاصمة هي القاهرة."
    document = json.loads(densepack("answer", default_bundle, "-q", "ما هي العاصمة؟", "-c", context, "--json").out)
    assert document["answer"] == context[document["start"] : document["end"]] != ""


def write_lines(path: Path, total: int, broken: dict[int, str]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for number in range(1, total + 1):
            good = {"id": f"q{number}", "question": "Which number?", "context": f"The number is {number}."}
            file.write(broken.get(number, json.dumps(good)) + "\n")


BROKEN = {
    3: "{not json",
    500: "[1, 2]",
    2_000: json.dumps({"question": "Who?"}),
    7_777: json.dumps({"question": "", "context": "A dog."}),
    10_000: '{"question": "Who?", "context": "bad \udcff byte"}',
}


@pytest.mark.slow
def test_ten_thousand_lines_with_five_broken_ones(densepack: CommandLine, default_bundle: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "lines.jsonl", 10_000, BROKEN)
    outcome = densepack("answer", default_bundle, "--lines", tmp_path / "lines.jsonl")
    assert outcome.code == 0
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, 10_001))
    assert {answer["line"] for answer in answers if "error" in answer} == set(BROKEN)
    assert answers[41]["id"] == "q42"
    assert answers[41]["answer"] == "42"
    for number in BROKEN:
        assert f"line {number}: " in outcome.err
    assert "9995 answered, 5 bad lines" in outcome.err


def test_strict_stops_at_the_first_bad_line(densepack: CommandLine, default_bundle: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "lines.jsonl", 5, {3: "{not json"})
    outcome = densepack("answer", default_bundle, "--lines", tmp_path / "lines.jsonl", "--strict")
    assert outcome.code == 1
    assert "line 3: not JSON" in outcome.error_lines[0]
    assert len(outcome.out.splitlines()) == 2


def test_eval_writes_predictions_with_the_score_it_prints(
    densepack: CommandLine, default_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "predictions.json"
    outcome = densepack("eval", default_bundle, "--limit", EVALUATED, "--predictions", path, "--json")
    document = json.loads(outcome.out)
    predictions = json.loads(path.read_text(encoding="utf-8"))
    score = score_predictions(read_squad(sample_squad_path(), limit=EVALUATED), predictions)
    assert (document["exact_match"], document["f1"]) == (score.exact_match, score.f1)
    assert document["f1"] > 80


def test_eval_of_squad_2(densepack: CommandLine, default_bundle: Path, tmp_path: Path) -> None:
    answerable = {
        "id": "a",
        "question": "Who built the bridge?",
        "answers": [{"text": "Anna Berg", "answer_start": 24}],
    }
    hopeless = {"id": "b", "question": "How tall is the moon tower?", "answers": [], "is_impossible": True}
    context = "The bridge was built by Anna Berg in 1901."
    article = {"title": "t", "paragraphs": [{"context": context, "qas": [answerable, hopeless]}]}
    (tmp_path / "v2.json").write_text(json.dumps({"version": "v2.0", "data": [article]}))
    odds = tmp_path / "odds.json"
    document = json.loads(
        densepack("eval", default_bundle, "--squad", tmp_path / "v2.json", "--null-odds", odds, "--json").out
    )
    assert document["has_answer"]["count"] == document["no_answer"]["count"] == 1
    assert set(json.loads(odds.read_text())) == {"a", "b"}
    assert "without an answer" in densepack("eval", default_bundle, "--squad", tmp_path / "v2.json").out


def openvino_rungs() -> list[str]:
    """The rungs that OpenVINO adds to a ladder here."""
    return [f"OpenVINO {precision.upper()}" for precision in openvino_precisions()]


def test_parity_from_the_checkpoint_and_from_the_recording(
    densepack: CommandLine, default_bundle: Path, default_checkpoint: Path
) -> None:
    recorded = densepack("parity", default_bundle, "--limit", BUNDLE_QUESTIONS, "--json")
    assert recorded.code == 0, recorded.err
    names = [rung["name"] for rung in json.loads(recorded.out)["rungs"]]
    assert names == ["PyTorch (recorded)", "ONNX FP32", "ONNX FP16", *openvino_rungs()]
    other = densepack("parity", default_bundle, "--limit", "3")
    assert other.code == 1
    assert f"the recorded reference is for {BUNDLE_QUESTIONS} questions" in other.error_lines[0]
    few = densepack("parity", default_bundle, "--checkpoint", default_checkpoint, "--limit", "8", "--json")
    assert few.code == 0, few.err
    names = [rung["name"] for rung in json.loads(few.out)["rungs"]]
    assert names == [
        "transformers",
        "packed PyTorch",
        "ONNX FP32",
        "ONNX FP16",
        *openvino_rungs(),
        "packed PyTorch float16",
        "ONNX FP16, fused attention",
    ]


def test_parity_refuses_another_checkpoint(
    densepack: CommandLine, default_bundle: Path, default_checkpoint: Path, tmp_path: Path
) -> None:
    other = changed_checkpoint(default_checkpoint, tmp_path / "other", "qa_outputs.bias", lambda tensor: tensor + 1)
    outcome = densepack("parity", default_bundle, "--checkpoint", other, "--limit", "2")
    assert outcome.code == 1
    assert "was built from other weights" in outcome.error_lines[0]


def test_doctor(densepack: CommandLine, default_bundle: Path) -> None:
    document = json.loads(densepack("doctor", default_bundle, "--json").out)
    assert document["NVIDIA GPU"] == [str(gpu) for gpu in nvidia_gpus()]
    assert "CPUExecutionProvider" in document["onnxruntime providers"]
    if not nvidia_gpus():
        backend = "openvino" if openvino_rungs() else "onnxruntime"
        assert document["would open"].startswith(f"{backend} fp32")
    assert "would open" in densepack("doctor", default_bundle).out


# --- bad input to a build --------------------------------------------------------------------------------------------


def changed_checkpoint(source: Path, target: Path, name: str, change: object) -> Path:
    """A copy of a checkpoint with one tensor changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors[name] = change(tensors[name])  # type: ignore[operator]
    save_file(tensors, target / "model.safetensors")
    return target


def test_truncated_weights_build_nothing(densepack: CommandLine, default_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(default_checkpoint, tmp_path / "damaged")
    path = tmp_path / "damaged" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    outcome = densepack("build", tmp_path / "damaged", tmp_path / "out" / "bundle")
    assert outcome.code == 1
    assert "model.safetensors" in outcome.error_lines[0]
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_weights_that_are_not_numbers_build_nothing(
    densepack: CommandLine, default_checkpoint: Path, tmp_path: Path
) -> None:
    name = "bert.encoder.layer.2.output.dense.weight"
    damaged = changed_checkpoint(default_checkpoint, tmp_path / "damaged", name, lambda tensor: tensor * np.nan)
    outcome = densepack("build", damaged, tmp_path / "out" / "bundle")
    assert outcome.code == 1
    assert name in outcome.error_lines[0]
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_one_changed_byte_of_a_bundle_is_found(densepack: CommandLine, default_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(default_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "model.onnx is damaged" in densepack("eval", tmp_path / "bundle").error_lines[0]
    path.unlink()
    assert "model.onnx is missing" in densepack("eval", tmp_path / "bundle").error_lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_build_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "out" / "bundle"
    command = [sys.executable, "-m", "densepack_export.cli", *map(str, ("build", TINY / "start", target, *TINY_BUILD))]
    # A shell's background job ignores SIGINT, and so would this one: the child begins with the default.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not list((tmp_path / "out").glob(".bundle*/model.onnx")):
            time.sleep(0.1)
        assert list((tmp_path / "out").glob(".bundle*/model.onnx")), "the build did not get as far as the export"
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode not in (0, -number)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bundle_that_was_not_checked_says_so(densepack: CommandLine, tmp_path: Path) -> None:
    outcome = densepack("build", TINY / "start", tmp_path / "bundle", *TINY_BUILD, "--no-parity")
    assert outcome.code == 0, outcome.err
    with pytest.warns(UserWarning, match="--no-parity"):
        bundle = Bundle.open(tmp_path / "bundle")
    assert not bundle.manifest.parity.checked
    assert "parity.json" not in bundle.manifest.files
