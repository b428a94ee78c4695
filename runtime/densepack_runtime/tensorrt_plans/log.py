"""What TensorRT says, as lines that an error can quote.

    with captured_log(trt) as (logger, log):
        ...
    log.errors, log.warnings

TensorRT reports through an object whose class derives from one of its own module, so it is made for the module in use
(`tensorrt` or `tensorrt_rtx`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from densepack_runtime.tensorrt_plans.module import TensorRT, override

if TYPE_CHECKING:
    import tensorrt as trt_types

# TensorRT says this about every int64 input; ours are meant to be int64.
_EXPECTED_WARNINGS = ("has Int64 binding",)
# TensorRT only warns about these and returns a plan: one that is not what was asked for, or one whose errors went to
# the logger of somebody else in this process.
_FATAL_WARNINGS = ("is unsupported in TensorRT-RTX", "values are not self-consistent", "new logger is ignored")
_LINES_KEPT = 50
_LOGGERS = threading.Lock()


@dataclass(slots=True, eq=False)
class TensorRTLog:
    """Lines of one step, without those that only inform. `errors` fail a build even when a plan came back."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, *, is_error: bool, text: str) -> None:
        fatal = is_error or any(part in text for part in _FATAL_WARNINGS)
        if not fatal and any(part in text for part in _EXPECTED_WARNINGS):
            return
        lines = self.errors if fatal else self.warnings
        line = " ".join(text.split())
        if line not in lines and len(lines) < _LINES_KEPT:
            lines.append(line)

    def told(self) -> str:
        """The errors, or where there are none the warnings, as one phrase."""
        return "; ".join(self.errors or self.warnings) or "it said nothing"


@contextmanager
def captured_log(trt: TensorRT) -> Iterator[tuple[trt_types.ILogger, TensorRTLog]]:
    """The logger to work with, and what this thread makes TensorRT say until the block ends.

    TensorRT keeps the first logger as long as any builder, runtime or parser lives (a traceback can hold one) and
    ignores every other, so there is one for the whole process. Lines of TensorRT's own threads go to the block that
    was entered last.
    """
    logger, log = _logger(trt), TensorRTLog()
    outer = logger.enter(log)
    try:
        yield logger, log
    finally:
        logger.leave(log, outer)


def _logger(trt: TensorRT) -> Any:
    with _LOGGERS:
        return _make_logger(trt)


@functools.cache
def _make_logger(trt: TensorRT) -> Any:
    """An ILogger that writes errors and warnings into the TensorRTLog of the block that is open."""
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = trt.ILogger  # noqa: N806 a class
    error_levels = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Logger(ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()  # pybind11 needs it spelled out
            self._of_thread = threading.local()
            self._open: list[TensorRTLog] = []

        def enter(self, log: TensorRTLog) -> TensorRTLog | None:
            outer: TensorRTLog | None = getattr(self._of_thread, "log", None)
            self._of_thread.log = log
            self._open.append(log)
            return outer

        def leave(self, log: TensorRTLog, outer: TensorRTLog | None) -> None:
            self._of_thread.log = outer
            self._open.remove(log)

        @override
        def log(self, severity: trt_types.ILogger.Severity, msg: str) -> None:
            is_error = severity in error_levels
            if not is_error and severity != trt.ILogger.WARNING:
                return
            target: TensorRTLog | None = getattr(self._of_thread, "log", None)
            if target is None and self._open:
                target = self._open[-1]
            if target is not None:
                target.add(is_error=is_error, text=msg)

    return Logger()
