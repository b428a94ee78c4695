"""`densepack answer`: one question, lines, and lines of a program that waits for each answer."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from densepack_runtime.backends import BACKENDS, Backend
from densepack_runtime.sessions.fake_session import FakeSession
from densepack_runtime.sessions.session import Batch, Logits
from tests.command_line import CommandLine
from tests.conftest import TINY_BUNDLE
from tests.processes import wait_until

SECONDS = 60


def command(*options: str) -> list[str]:
    asked = ["answer", str(TINY_BUNDLE), "--backend", "onnxruntime", "--lines", "-", *options]
    return [sys.executable, "-c", "from densepack_export.cli import main; main()", *asked]


def test_a_program_can_wait_for_each_answer() -> None:
    with subprocess.Popen(
        command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        timer = threading.Timer(SECONDS, worker.kill)
        timer.start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        for number in range(5):
            asked = {"id": number, "question": "who saw the dog ?", "context": "the old man saw the dog ."}
            worker.stdin.write(json.dumps(asked if number != 3 else None) + "\n")
            worker.stdin.flush()
            found = json.loads(worker.stdout.readline())
            assert found["line"] == number + 1
            assert ("answer" in found) == (number != 3)
        worker.stdin.close()
        assert worker.wait(SECONDS) == 0
        timer.cancel()


def test_a_closed_stdin_is_one_line() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *command()], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "error: the lines cannot be read from stdin: it is closed"
    ]
    assert "Traceback" not in done.stderr


def test_the_exit_code_says_that_no_line_could_be_answered() -> None:
    done = subprocess.run(command(), input="{\n", capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)
    assert done.stderr.splitlines()[-1] == "error: no line could be answered, of 1"


# --- one question ----------------------------------------------------------------------------------------------------

CONTEXT = b"\xef\xbb\xbfthe old man\r\nsaw\rthe dog .\n"


def test_a_context_file_keeps_its_own_characters(densepack: CommandLine, tmp_path: Path) -> None:
    """Offsets count CR and LF as they stand; a BOM is no text."""
    (tmp_path / "context.txt").write_bytes(CONTEXT)
    asked = ["answer", TINY_BUNDLE, "--backend", "onnxruntime", "-q", "who saw the dog ?", "--json"]
    outcome = densepack(*asked, "--context-file", tmp_path / "context.txt")
    text = CONTEXT.decode("utf-8-sig")
    wanted = densepack(*asked, "--context", text)
    assert outcome.out == wanted.out
    found = json.loads(outcome.out)
    assert found["answer"] == text[found["start"] : found["end"]] != ""
    assert found["end"] > text.index("\r\n")


def test_a_context_from_stdin(tmp_path: Path) -> None:
    asked = [*command()[:-2], "-q", "who saw the dog ?", "--json", "--context-file"]
    (tmp_path / "context.txt").write_bytes(CONTEXT)
    of_file, of_stdin = (
        subprocess.run([*asked, name], input=CONTEXT, capture_output=True, timeout=SECONDS, check=True)
        for name in (str(tmp_path / "context.txt"), "-")
    )
    assert of_stdin.stdout == of_file.stdout
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *asked, "-"], capture_output=True, text=True, check=False)
    assert closed.stderr.splitlines()[-1] == "error: the context cannot be read from stdin: it is closed"
    latin = subprocess.run([*asked, "-"], input=b"caf\xe9", capture_output=True, check=False)
    assert latin.stderr.splitlines()[-1].startswith(b"error: the context cannot be read from -: 'utf-8' codec")


@pytest.mark.parametrize("mode", [[], ["--compat"]])
def test_a_model_that_gives_no_numbers_is_an_error_that_names_backend_and_batch(
    densepack: CommandLine, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    def no_numbers(batch: Batch) -> Logits:
        nothing = np.full(batch.shape, np.nan, dtype=np.float32)
        return Logits(nothing, nothing)

    monkeypatch.setitem(BACKENDS, "abacus", Backend("abacus", ("fp32",), lambda _, __: FakeSession(no_numbers)))
    asked = ["answer", TINY_BUNDLE, "--backend", "abacus", "-q", "who saw the dog ?", "-c", "the old man .", *mode]
    outcome = densepack(*asked)
    assert (outcome.code, outcome.out) == (1, "")
    [line] = outcome.error_lines
    assert line.startswith("error: abacus fp32 gave no finite logits for 12 of 12 tokens in a batch of 1x12: ")


# --- a conversation --------------------------------------------------------------------------------------------------


def converse(lines: list[str], *options: str) -> str:
    """What a terminal shows when these are typed into it, each when it is asked for; what is echoed included."""
    ours, theirs = pty.openpty()
    settings = [sys.executable, "-m", "densepack_export.cli", "answer", str(TINY_BUNDLE), "--backend", "onnxruntime"]
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux's way to say that nobody writes any more
            while piece := os.read(ours, 4096):
                shown.extend(piece)

    with subprocess.Popen(
        [*settings, *options], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"}
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        for number, line in enumerate(lines, 1):
            assert wait_until(lambda number=number: shown.count(b"> ") >= number, SECONDS), shown  # type: ignore[misc]
            os.write(ours, line.encode())
        code = process.wait()
        timer.cancel()
        reader.join()
    os.close(ours)
    assert code == 0, shown
    return shown.decode().replace("\r\n", "\n")


STORY = "the old man saw the dog ."
ANSWERED = re.compile(r"^  score 0\.\d{3}, characters \d+ to \d+, \d+\.\d ms$", re.MULTILINE)


def test_a_conversation(densepack: CommandLine, tmp_path: Path) -> None:
    """The context once, questions one after another, another context, an error that does not end it, an empty line.

    The context is one line of more characters than a terminal passes on by itself.
    """
    long = " ".join(["the woman saw the cat ."] * 200)
    (tmp_path / "other.txt").write_text(STORY)
    asked = ["answer", TINY_BUNDLE, "--backend", "onnxruntime", "-q", "who saw the dog ?"]
    expected = [densepack(*asked, "-c", text).out for text in (long, STORY)]
    shown = converse(
        [
            *(f"{long}\n", "\n", "who saw the dog ?\n", ":context /nowhere\n"),
            *(f":context {tmp_path / 'other.txt'}\n", "who saw the dog ?\n", "\n"),
        ]
    )
    assert "The context, then an empty line:" in shown
    assert len(long) > 4096
    assert len(ANSWERED.findall(shown)) == 2
    for answer in expected:
        assert f"\n{answer}  score" in shown
    assert "error: the context cannot be read: [Errno 2]" in shown


def test_a_conversation_about_a_given_context_ends_with_the_end_of_input() -> None:
    shown = converse(["who saw the dog ?\n", "\x04"], "--context", STORY)
    assert "The context" not in shown
    assert len(ANSWERED.findall(shown)) == 1


def test_where_nobody_sits_a_question_is_needed() -> None:
    done = subprocess.run(command()[:-2], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give either --question with --context, or --lines" in done.stderr
