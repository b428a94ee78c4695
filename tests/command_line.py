"""Runs the command line in this process, as `densepack …` would."""

from __future__ import annotations

import signal
import sys
import warnings
from dataclasses import dataclass

import pytest

from densepack_export.cli import main


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code, stdout and stderr of one run."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def next_step(self) -> str:
        """What the last line says to do next."""
        return self.err.splitlines()[-1].removeprefix("next: ").partition("  # ")[0]


class CommandLine:
    """Call it with arguments; `text` is what stdin gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["densepack", *map(str, arguments)])
        self.monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        self.capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # this process goes on
        captured = self.capsys.readouterr()
        return Outcome(code, captured.out, captured.err)
