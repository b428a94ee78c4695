"""Texts come out as they are, and the streams may be closed, missing or odd."""

from __future__ import annotations

import io
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from densepack_runtime.host import console
from densepack_runtime.host.console import print_table, progress_bar, tell

ODD = ("[i]Word[/i]", "[/x]", ":smile:", "[link=http://x]", "\\[bold]", "[red]")


@pytest.mark.parametrize("text", ODD)
def test_texts_come_out_of_tables_and_the_story_unchanged(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_table(text, (text, "value"), [(text, text)])
    tell(text)
    with progress_bar(text, 1) as advance:
        advance(1, text)
    printed = capsys.readouterr()
    assert printed.out.count(text) == 4
    assert printed.err == f"{text}\n"


def test_progress_of_a_text_with_brackets_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description would be markup by default, and a closing tag without its opening one raises."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "story", lambda: terminal)
    with progress_bar("dev[/x].json", 1) as advance:
        advance(1)
    assert "dev[/x].json" in screen.getvalue()


SIGNALLED = """
import os, signal
from densepack_runtime.errors import ExportError
from densepack_runtime.host.console import run_command_line
def app():
    os.kill(os.getpid(), signal.{signal})
def swallowing():
    try:
        app()
    except (SystemExit, KeyboardInterrupt):
        raise {error}("initialization failed")
run_command_line({app})
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    ("app", "error"),
    [("app", ""), ("swallowing", "ImportError"), ("swallowing", "ExportError"), ("swallowing", "SystemExit")],
)
def test_a_signal_outside_of_a_command_is_no_traceback(name: str, code: int, app: str, error: str) -> None:
    """Before the application begins, and while a library starts or traces and takes what is raised for a failure."""
    code_text = SIGNALLED.format(signal=name, app=app, error=error or "ValueError")
    done = subprocess.run([sys.executable, "-c", code_text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_an_object_is_freed_is_not_lost(name: str, code: int) -> None:
    """Where Python can raise nothing: it would tell of it with a traceback, and the command would go on."""
    text = (
        "import signal, time, weakref\n"
        "from densepack_runtime.host.console import run_command_line\n"
        "class Freed: pass\n"
        "def app():\n"
        "    one = Freed()\n"
        f"    kept = weakref.ref(one, lambda _: signal.raise_signal(signal.{name}))\n"
        "    del one\n"
        "    time.sleep(20)\n"
        "    print('went on')\n"
        "run_command_line(app)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_a_command_ends_the_process_and_loses_nothing(name: str) -> None:
    """While the interpreter tears down what was imported, which Python would tell of with a traceback."""
    code = (
        "import atexit, os, signal\n"
        "from densepack_runtime.host.console import run_command_line\n"
        f"atexit.register(os.kill, os.getpid(), signal.{name})\n"
        "run_command_line(lambda: print('done'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-getattr(signal, name), "done\n", "")


STREAMS = {
    "None": "sys.stdout = sys.stderr = sys.stdin = None",
    "closed": "sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
    "without isatty": "sys.stdout = sys.stderr = type('Stream', (), {'write': lambda self, text: None})()",
}


@pytest.mark.parametrize("streams", STREAMS)
def test_import_does_not_look_at_the_streams(streams: str) -> None:
    code = (
        f"import os, sys\n{STREAMS[streams]}\nimport densepack_runtime, densepack_runtime.commands.answer\nos._exit(7)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], stdin=subprocess.DEVNULL).returncode == 7


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_command_line_runs_with_closed_streams(closed: str) -> None:
    command = f'"{sys.executable}" -m densepack_export.cli doctor {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
