"""Killed at any step, a run continues to the same result, bit for bit; a signal pauses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from densepack_models.pruning.trainer import StudentTrainer, checkpoint_step, last_checkpoint
from tests.models.pruning.conftest import PruneCommand, TinyFiles

# Dies without a chance to say goodbye, in the middle of a step.
KILLED_AT_17 = """
import os, signal
from densepack_export.cli import main
from densepack_models.pruning.trainer import StudentTrainer
compute = StudentTrainer.compute_loss
def compute_loss(self, *args, **names):
    if self.state.global_step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, *args, **names)
StudentTrainer.compute_loss = compute_loss
main()
"""
STEERED = ("--dropout", 0.1, "--attention-dropout", 0.1, "--target-density", 0.5, "--score-learning-rate", 0.2)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", [STEERED, ("--preset", "magnitude", "--target-density", "0.5"), ("--method", "l0")])
def test_killed_at_17_and_resumed_equals_the_run_that_was_not_killed(
    tiny_files: TinyFiles, tiny_prune: PruneCommand, tmp_path: Path, options: tuple[object, ...]
) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    more = ("--attention-block", "4x4", *options)
    arguments = [*tiny_files.arguments("prune", out), *map(str, more)]
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_17, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    last = last_checkpoint(tmp_path / "killed.state" / "prune")
    assert last is not None
    assert checkpoint_step(last) == 15
    resumed = tiny_prune(out, *more, "--resume")
    assert resumed.code == 0, resumed.err
    assert "going on from step 15 of 30" in resumed.err
    assert tiny_prune(whole, *more).code == 0
    assert weights(out) == weights(whole)
    assert [row.rsplit(",", 1)[0] for row in (out / "training_log.csv").read_text().splitlines()] == [
        row.rsplit(",", 1)[0] for row in (whole / "training_log.csv").read_text().splitlines()
    ]


class Signals:
    """Sends signals to this process when a step begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: dict[int, signal.Signals]) -> None:
        before = StudentTrainer.before_step

        def before_step(trainer: StudentTrainer, step: int) -> None:
            before(trainer, step)
            if step in at:
                os.kill(os.getpid(), at.pop(step))

        monkeypatch.setattr(StudentTrainer, "before_step", before_step)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_writes_a_checkpoint_and_says_how_to_go_on(
    tiny_prune: PruneCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert tiny_prune(whole).code == 0
    Signals(monkeypatch, {6: number})
    stopped = tiny_prune(out)
    assert stopped.code == 128 + number
    assert f"{number.name}: stopped after step 7 of 30" in stopped.err
    assert "--resume" in stopped.err
    assert not out.exists()
    assert tiny_prune(out, "--resume").code == 0
    assert weights(out) == weights(whole)


def test_a_signal_pauses_and_another_continues(
    tiny_prune: PruneCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert tiny_prune(whole).code == 0
    Signals(monkeypatch, {11: signal.SIGUSR1})
    spent: list[float] = []

    def wake() -> None:
        while last_checkpoint(tmp_path / "out.state" / "prune") is None or not _paused(tmp_path / "out.state"):
            time.sleep(0.01)
        before = time.process_time()
        time.sleep(0.5)
        spent.append(time.process_time() - before)
        os.kill(os.getpid(), signal.SIGUSR2)

    waking = threading.Thread(target=wake)
    waking.start()
    done = tiny_prune(out)
    waking.join()
    assert done.code == 0, done.err
    assert "paused after step 12 of 30" in done.err
    assert "going on from step 12" in done.err
    assert spent[0] < 0.25  # half a second of pause costs next to nothing
    assert weights(out) == weights(whole)


def _paused(state: Path) -> bool:
    return (state / "prune" / "checkpoint-12").is_dir()


def test_resuming_a_finished_run_only_writes_it_again(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tiny_prune(out).code == 0
    before = weights(out)
    again = tiny_prune(out, "--resume", "--overwrite")
    assert again.code == 0, again.err
    assert weights(out) == before


def test_a_state_of_another_run_is_refused(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tiny_prune(out).code == 0
    [fresh] = tiny_prune(out, "--overwrite").error_lines
    assert "holds a training already, up to checkpoint-30: pass --resume" in fresh
    [other] = tiny_prune(out, "--overwrite", "--resume", "--seed", 1, "--lambda", 3).error_lines
    assert "pruning.regularisation was 20.0 and is 3.0" in other
    assert "training.seed was 0 and is 1" in other
