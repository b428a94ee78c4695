"""How the command line speaks: results on stdout, the story on stderr, one line for an error.

Texts are data: brackets, colons and whatever else a name, an id or an answer holds come out as they are. Nothing here
looks at the streams before something is said.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from densepack_runtime.errors import DensepackError
from densepack_runtime.host.story import Story

# As shells count those that a signal ended.
_INTERRUPTED, _TERMINATED = 130, 143
_signalled: list[int] = []
_AGAIN_S = 0.01
# Tables keep their columns when stdout is a file or a pipe.
_WIDTH_OF_FILES = 132


@cache
def story() -> Console:
    """Where the story is told."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def told_here(*, tables: bool = True) -> Story:
    """What a long step tells the one who started the command, as this module speaks."""
    show = print_table if tables else lambda *_: None
    return Story(tell, show, progress_bar, lines_for_steps=not story().is_terminal)


def run_command_line(app: Callable[[], Any]) -> None:
    """Run a typer application: errors of ours are one line and exit 1, everything else keeps its traceback."""
    warnings.showwarning = _show_warning
    _show_log()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bytes that are no UTF-8 become a clear error of the line they are in
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background of a shell ignores it
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _signal_again
    try:
        _run_and_flush(app)
    except KeyboardInterrupt:  # before or after what the application itself ends so
        sys.exit(_INTERRUPTED)
    except (SystemExit, Exception) as error:
        if _signalled:  # a library that was starting, tracing or waiting made an error or a code of its own of it
            sys.exit(_signalled[0])
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone (`densepack … | head`)
            sys.stderr.close()
        elif "--debug" in sys.argv or not isinstance(error, DensepackError | OSError):
            raise
        else:  # OSError: a full disk, a folder that may not be written, …
            _tell_error(error)
        sys.exit(1)
    finally:
        _end_at_once()


def _run_and_flush(app: Callable[[], Any]) -> None:
    """What was said is out when this returns or raises."""
    try:
        app()
    finally:
        sys.stdout.flush()


def _end_at_once() -> None:
    """From here on a signal ends the process, which has nothing left to do: Python would tell where it was."""
    for number, ours in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is ours:
            signal.signal(number, signal.SIG_DFL)


def _tell_error(error: Exception) -> None:
    story().print(f"error: {one_line(error)}", style="bold red")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


class _StoryHandler(logging.Handler):
    """Lines of the logger `densepack` (which backend was taken, and why) as part of the story."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


def _show_log() -> None:
    logger = logging.getLogger("densepack")
    if not any(isinstance(handler, _StoryHandler) for handler in logger.handlers):
        logger.addHandler(_StoryHandler())
    logger.setLevel(logging.INFO)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    story().print(f"warning: {' '.join(str(message).split())}", style="yellow")


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that temporary files are removed."""
    _signalled.append(_TERMINATED)
    raise SystemExit(_TERMINATED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """What Python does at SIGINT, kept in mind where a library swallows it."""
    _signalled.append(_INTERRUPTED)
    raise KeyboardInterrupt


def _signal_again(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came while Python freed an object, which it would tell of and then go on, is sent once more."""
    number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(unraisable.exc_type)
    if number is None or not _signalled:
        sys.__unraisablehook__(unraisable)
    else:  # from a thread, and so after this; to the process, whose main thread may be waiting
        Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()


def tell(text: str) -> None:
    """A line of the story, on stderr."""
    story().print(text)


def tell_next(command: str, why: str) -> None:
    """What to do after a long step, as its last line."""
    tell(f"next: {command}  # {why}")


def print_json(document: Any) -> None:
    """The one JSON document that `--json` promises on stdout."""
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """An aligned table on stdout: the first column left, the others right."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def progress_bar(text: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A bar on stderr. The block gets a function: call it with how many steps were done, and a new text if any.

    `total` None shows a bar without an end, for streams.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=story(), transient=True, disable=not story().is_terminal) as progress:
        task = progress.add_task(text, total=total)

        def advance(steps: int = 1, description: str | None = None) -> None:
            progress.update(task, advance=steps, description=description)

        yield advance
