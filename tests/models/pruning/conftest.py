"""A tiny start, teacher and training file on disk, and `densepack prune` on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import CommandLine, Outcome
from tests.models.pruning.tiny_task import LONGEST, tiny_start, write_squad, write_start

PruneCommand = Callable[..., Outcome]


@dataclass(frozen=True, slots=True)
class TinyFiles:
    """Folders of two checkpoints that share a vocabulary, and a SQuAD file."""

    start: Path
    teacher: Path
    data: Path

    def arguments(self, command: str, out: Path) -> list[str]:
        """A short training in FP32, everything of size tiny."""
        return [
            *(command, str(self.start), str(out), "--teacher", str(self.teacher), "--data", str(self.data)),
            *("--max-steps", "30", "--token-budget", "256", "--max-length", str(LONGEST), "--doc-stride", "8"),
            *("--learning-rate", "1e-3", "--log-every", "5", "--save-every", "5", "--device", "cpu"),
        ]


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    folder = tmp_path_factory.mktemp("tiny")
    return TinyFiles(
        start=write_start(folder / "start", tiny_start(seed=0)),
        teacher=write_start(folder / "teacher", tiny_start(seed=1)),
        data=write_squad(folder / "train.json", 64),
    )


@pytest.fixture
def tiny_prune(densepack: CommandLine, tiny_files: TinyFiles) -> PruneCommand:
    """`densepack prune` on the tiny files: the folder to write, and more options."""

    def run(out: Path, *options: object) -> Outcome:
        blocks = () if "--attention-block" in options else ("--attention-block", "4x4")
        return densepack(*tiny_files.arguments("prune", out), *blocks, *options)

    return run
