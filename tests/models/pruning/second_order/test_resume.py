"""Killed at any point, `densepack shrink` goes on from its state folder to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from densepack_models.pruning.second_order import cut
from tests.command_line import CommandLine, Outcome
from tests.models.pruning.conftest import TinyFiles
from tests.models.pruning.tiny_task import LONGEST

# Dies without a chance to say goodbye, in the middle of a batch.
KILLED_IN_BATCH_4 = """
import os, signal
from densepack_export.cli import main
from densepack_models.pruning.second_order.statistics import Measurement, _Sums
add, seen = _Sums.add_gradients, []
def add_gradients(self, gradients):
    seen.append(self)
    if seen.count(self) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, gradients)
_Sums.add_gradients = add_gradients
main()
"""


def arguments(files: TinyFiles, out: Path) -> list[str]:
    sizes = ("--max-length", LONGEST, "--doc-stride", 8, "--device", "cpu", "--token-budget", 256, "--save-every", 2)
    return [*map(str, ("shrink", files.start, out, "--data", files.data, "--family", "0.6,0.3", *sizes))]


def weights(folder: Path) -> list[bytes]:
    return [(folder / name / "model.safetensors").read_bytes() for name in ("0.60", "0.30")]


def test_killed_three_times_and_resumed_equals_the_run_that_was_not_killed(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path
) -> None:
    out, state = tmp_path / "killed", tmp_path / "killed.state" / "shrink"
    command = [sys.executable, "-c", KILLED_IN_BATCH_4, *arguments(tiny_files, out)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert sorted(path.name for path in state.iterdir()) == ["run.json", "sums.safetensors"]

    def resume_until(name: str, call: int) -> Outcome:
        """Go on, and end when a function of the module `cut` is called for this time."""
        calls, real = [], getattr(cut, name)

        def ending(*given: object, **more: object) -> object:
            calls.append(name)
            if len(calls) == call:
                raise SystemExit(9)
            return real(*given, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cut, name, ending)
            return densepack(*arguments(tiny_files, out), "--resume")

    ordering = resume_until("removal_order", 3)
    assert ordering.code == 9
    assert "going on from batch 2 of" in ordering.err
    assert len(list(state.glob("layer.*.json"))) == 2
    assert resume_until("module_from_tensors", 2).code == 9  # before the first member is fitted
    assert not out.exists() or not [*out.iterdir()]
    assert resume_until("module_from_tensors", 3).code == 9  # between the two members
    assert [path.name for path in out.iterdir()] == ["0.60"]
    done = densepack(*arguments(tiny_files, out), "--resume")
    assert done.code == 0, done.err
    assert densepack(*arguments(tiny_files, tmp_path / "whole")).code == 0
    assert weights(out) == weights(tmp_path / "whole")


def test_a_state_of_another_model_or_of_other_data_is_refused(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path
) -> None:
    """Another size is not another measurement."""
    out = tmp_path / "out"
    assert densepack(*arguments(tiny_files, out)).code == 0
    other = densepack(*arguments(tiny_files, out), "--resume", "--overwrite", "--seed", 1)
    [line] = other.error_lines
    assert "the measurement in" in line
    assert "was started otherwise: shrink.seed was 0 and is 1" in line
    changed = [part.replace("0.6,0.3", "0.5,0.3") for part in arguments(tiny_files, out)]
    assert densepack(*changed, "--resume").code == 0
    assert (out / "0.50").is_dir()
