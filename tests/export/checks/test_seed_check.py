"""`make seed-check` on what is here: a random replica of the published model, and no hub."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densepack_export.checks import seed_check
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.host.console import run_command_line
from densepack_runtime.parity.report import ParityReport, RungReport
from densepack_runtime.question_answering.answers import Answer

HUB_FILES = {
    "README.md",
    "config.json",
    "pytorch_model.bin",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.txt",
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["seed_check", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command_line(seed_check.app)
    return int(stop.value.code or 0)


def test_without_a_hub_it_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert run(monkeypatch) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert seed_check.PUBLISHED_MODEL in line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::densepack_runtime.bundle.UncheckedBundleWarning")
def test_replica_has_the_sizes_and_not_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, default_tokenizer_json: str
) -> None:
    replica = random_checkpoint(tmp_path / "replica", SEED, tokenizer_json=default_tokenizer_json)
    assert {path.name for path in replica.iterdir()} == HUB_FILES
    assert run(monkeypatch, str(replica), "--no-parity", "--limit", "1") == 1
    captured = capsys.readouterr()
    for size in ("93,149,186", "46,161,559"):
        [row] = [line for line in captured.out.splitlines() if size in line]
        assert row.split().count(size) == 2
        assert "holds" in row
    [line] = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "example answer" in line
    assert "parameters" not in line


def test_example_is_checked_by_text_characters_and_score() -> None:
    good = Answer(seed_check.EXAMPLE_ANSWER, 96, 134, 0.5615)
    assert all(check.holds for check in seed_check.example_checks(good))
    bad = Answer("a Polish composer", 96, 113, 0.57)
    assert not any(check.holds for check in seed_check.example_checks(bad))


@pytest.mark.parametrize(("f1", "holds"), [(87.71, True), (87.75, True), (87.60, False)])
def test_scores_are_checked_at_every_rung_on_the_whole_set(f1: float, holds: bool) -> None:
    rungs = (
        RungReport("transformers", "fp32", "reference", questions=10_570, exact_match=80.03, f1=87.71),
        RungReport("ONNX FP32", "fp32", "passed", questions=10_570, exact_match=80.03, f1=f1),
        RungReport("part", "fp16", "passed", questions=60, exact_match=10, f1=10),
    )
    checks = seed_check.score_checks(ParityReport("dev-v1.1.json", "00", rungs))
    assert len(checks) == 4
    assert all(check.holds for check in checks) is holds
