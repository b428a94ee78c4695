"""Pausing and stopping a training from outside, always between two steps and after a checkpoint.

kill -USR1 PID      write a checkpoint and pause; the cores are free
kill -USR2 PID      go on (SIGCONT does, too)
kill PID, Ctrl-C    write a checkpoint and end; --resume goes on from there. A second time: end at once

with Interruption() as interruption:
    ... interruption.wanted, interruption.wait_while_paused()
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Self

_POLL_SECONDS = 0.2
_PAUSE = ("SIGUSR1",)
_CONTINUE = ("SIGUSR2", "SIGCONT")
_STOP = ("SIGTERM", "SIGINT")


class Interruption:
    """Handles the signals while its block runs (in the main thread; elsewhere it does nothing)."""

    def __init__(self) -> None:
        self.pause_wanted = False
        self.stop_signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def wanted(self) -> bool:
        """Whether a checkpoint is to be written after this step."""
        return self.pause_wanted or self.stop_signal is not None

    def wait_while_paused(self) -> None:
        """Return when a signal says to go on, or to stop."""
        while self.pause_wanted and self.stop_signal is None:
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for names, handler in ((_PAUSE, self._pause), (_CONTINUE, self._continue), (_STOP, self._stop)):
                for name in names:
                    number = getattr(signal, name, None)  # Windows has only some of them
                    if number is not None:
                        self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        self.pause_wanted = True

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        self.pause_wanted = False

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            raise SystemExit(128 + number)
        self.stop_signal = number
