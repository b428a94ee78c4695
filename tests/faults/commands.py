"""Every command that writes, on files so small that it takes seconds, and what must be true of what it has written.

A command runs in a process of its own that is forked from one that has imported everything heavy, so that a try costs
what the command itself does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path

from densepack_export.cli import main

LAST = Path(__file__).parents[1] / "last_version"
SECONDS = 120  # nothing here is near it; it only keeps a hanging command from hanging everything
_FORKS = multiprocessing.get_context("forkserver")
_PRELOADED = ("torch", "transformers", "accelerate", "onnxscript", "openvino", "onnxruntime", "matplotlib", "jinja2")

Check = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Command:
    """`arguments` are of the folder with the inputs and the path of the output; `check` raises for what is no whole
    output. `changes` is the input that the command changes in its place, if it makes no new output.
    """

    name: str
    arguments: Callable[[Path, Path], Sequence[object]]
    check: Check
    out: str = "out"
    changes: str | None = None
    again: tuple[str, ...] = ()

    def prepare(self, place: Path) -> None:
        """Lay out the inputs in a new folder."""
        for name in ("bundle", "start", "teacher"):
            shutil.copytree(LAST / name, place / name)
        for name in ("train.json", "bench.json"):
            shutil.copyfile(LAST / name, place / name)

    def command_line(self, place: Path, *, again: bool = False) -> list[str]:
        return [self.name, *map(str, self.arguments(place, self.output(place))), *(self.again if again else ())]

    def output(self, place: Path) -> Path:
        return place / (self.changes or self.out)


def _training(place: Path, out: Path, *more: object) -> list[object]:
    sizes = ("--max-steps", 3, "--token-budget", 256, "--max-length", 32, "--doc-stride", 8, "--save-every", 1)
    return [out, "--data", place / "train.json", *sizes, "--device", "cpu", "--threads", 1, "--overwrite", *more]


def _checkpoint(path: Path) -> None:
    from densepack_models.formats.checkpoint import load_checkpoint

    load_checkpoint(path)


def _trained(path: Path) -> None:
    _checkpoint(path)
    json.loads((path / "training.json").read_text(encoding="utf-8"))


def _bundle(path: Path) -> None:
    from densepack_runtime.bundle import Bundle

    Bundle.open(path)


def _onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _json(path: Path) -> None:
    json.loads(path.read_text(encoding="utf-8"))


def _page(path: Path) -> None:
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def _card(path: Path) -> None:
    _checkpoint(path)
    for picture in path.glob("*.svg"):
        assert picture.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    card = path / "README.md"
    assert not card.exists() or card.read_text(encoding="utf-8").count("---") >= 2


_RESUME = ("--resume",)
COMMANDS = {
    command.name if command.changes != "bundle" or command.name != "report" else "report into the bundle": command
    for command in (
        Command(
            "build",
            lambda place, out: [
                *(place / "start", out, "--squad", place / "train.json", "--limit", 4, "--no-engine"),
                *("--max-length", 32, "--doc-stride", 8, "--threads", 1, "--overwrite"),
            ],
            _bundle,
        ),
        Command(
            "build-engine",
            lambda place, out: [out, "--lengths", 32, "--max-batch", 2, "--attention", "written-out"],
            _bundle,
            changes="bundle",
        ),
        Command("pack", lambda place, out: [place / "start", out, "--overwrite"], _checkpoint),
        Command("export", lambda place, out: [place / "start", out, "--overwrite"], _onnx, out="out.onnx"),
        Command(
            "prune",
            lambda place, out: [place / "start", *_training(place, out, "--teacher", place / "teacher")],
            _trained,
            again=_RESUME,
        ),
        Command(
            "fill",
            lambda place, out: [place / "start", *_training(place, out, "--teacher", place / "teacher")],
            _trained,
            again=_RESUME,
        ),
        Command("finetune", lambda place, out: [place / "start", *_training(place, out)], _trained, again=_RESUME),
        Command(
            "eval",
            lambda place, out: [
                *(place / "bundle", "--squad", place / "train.json", "--limit", 8, "--predictions", out, "--threads", 1)
            ],
            _json,
            out="out.json",
        ),
        Command(
            "report",
            lambda place, out: [place / "bundle", "--bench", place / "bench.json", "--out", out, "--overwrite"],
            _page,
            out="out.html",
        ),
        Command("report", lambda place, out: [out, "--overwrite"], _bundle, changes="bundle"),
        Command("card", lambda place, out: [out, "--overwrite"], _card, changes="start"),
        Command(
            "bench",
            lambda place, out: [
                *(f"{place / 'bundle'}@packed", "--batches", 1, "--lengths", 16, "--rounds", 1, "--threads", 1),
                *("--out", out),
            ],
            _json,
            out="out.json",
        ),
        Command(
            "parity",
            lambda place, out: [out, "--squad", place / "train.json", "--limit", 8, "--write", "--threads", 1],
            _bundle,
            changes="bundle",
        ),
    )
}


@dataclass(slots=True)
class Running:
    """A command under way; `log` is what it has said."""

    process: ForkServerProcess
    log: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{self.log.read_text(encoding='utf-8')} … took longer than {SECONDS} s")
        return self.process.exitcode

    @property
    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(arguments: Sequence[str], log: Path, before: Callable[[], None] | None = None) -> Running:
    """Start a command; it has reached its first line when this returns. `before` runs in its process first."""
    _FORKS.set_forkserver_preload(list(_PRELOADED))
    begun = _FORKS.Event()
    process = _FORKS.Process(target=_run, args=(tuple(arguments), str(log), begun, before))
    process.start()
    begun.wait(SECONDS)
    return Running(process, log)


def _run(arguments: tuple[str, ...], log: str, begun: Event, before: Callable[[], None] | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    sys.argv = ["densepack", *arguments]
    if before is not None:
        before()
    begun.set()
    main()


def timed(command: Command, place: Path, log: Path) -> float:
    """Seconds that a whole run takes. Raises AssertionError when it fails."""
    began = time.monotonic()
    running = start(command.command_line(place), log)
    assert running.wait() == 0, running.told
    command.check(command.output(place))
    return time.monotonic() - began
