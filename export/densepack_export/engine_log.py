"""What TensorRT says while it builds: its log as lines, its progress as calls.

TensorRT reports through objects that derive from classes of its own module, so these are made for the module that is in
use (`tensorrt` or `tensorrt_rtx`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

ProgressCallback = Callable[[str, int, int], None]
"""Called with a phase of the build, the steps done in it and their number; an exception in it cancels the build."""

# TensorRT says this about every int64 input; ours are meant to be int64.
_EXPECTED_WARNINGS = ("has Int64 binding",)
# TensorRT only warns about these and returns a plan: one that is not what was asked for, or one whose errors went to
# the logger of somebody else in this process.
_FATAL_WARNINGS = ("is unsupported in TensorRT-RTX", "values are not self-consistent", "new logger is ignored")
_ONE_AT_A_TIME = threading.Lock()


@dataclass(slots=True)
class BuildLog:
    """Lines of one build, without those that only inform. `errors` fail a build even when a plan came back."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, *, is_error: bool, text: str) -> None:
        fatal = is_error or any(part in text for part in _FATAL_WARNINGS)
        if not fatal and any(part in text for part in _EXPECTED_WARNINGS):
            return
        lines = self.errors if fatal else self.warnings
        line = " ".join(text.split())
        if line not in lines:
            lines.append(line)


@contextmanager
def captured_log(trt: ModuleType) -> Iterator[tuple[Any, BuildLog]]:
    """The logger to build with, and what it collects until the block ends; one block at a time in a process.

    TensorRT keeps the first logger as long as any builder, runtime or parser lives (a traceback can hold one) and
    ignores every other, so there is one for the whole process and each build puts its own log behind it.
    """
    with _ONE_AT_A_TIME:
        logger = _logger(trt)
        logger.target = BuildLog()
        try:
            yield logger, logger.target
        finally:
            logger.target = BuildLog()


@functools.cache
def _logger(trt: ModuleType) -> Any:
    """An ILogger that writes errors and warnings into the BuildLog that is its `target`."""
    error_levels = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()  # pybind11 needs it spelled out
            self.target = BuildLog()

        def log(self, severity: Any, message: str) -> None:
            if severity in error_levels or severity == trt.ILogger.WARNING:
                self.target.add(is_error=severity in error_levels, text=message)

    return Logger()


class Progress:
    """Passes TensorRT's progress on and remembers what the callback raised: nothing may be raised through C++."""

    def __init__(self, callback: ProgressCallback) -> None:
        self.callback = callback
        self.raised: BaseException | None = None
        self._totals: dict[str, int] = {}

    def start(self, phase: str, total: int) -> None:
        self._totals[phase] = total
        self.tell(phase, 0)

    def finish(self, phase: str) -> None:
        self.tell(phase, self._totals.get(phase, 0))

    def tell(self, phase: str, done: int) -> bool:
        """False cancels the build."""
        if self.raised is None:
            try:
                self.callback(phase, done, self._totals.get(phase, 0))
            except BaseException as error:  # noqa: BLE001 Ctrl-C arrives here too; build_engine raises it again
                self.raised = error
        return self.raised is None


def make_progress_monitor(trt: ModuleType, progress: Progress) -> Any:
    """An IProgressMonitor that tells `progress` about every step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.tell(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
