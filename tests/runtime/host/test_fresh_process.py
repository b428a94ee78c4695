"""A process that ends, hangs or raises is a finding, and this one goes on."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.fresh_process import FreshProcess, in_fresh_process

# Starting Python and importing this module takes a second or two; nothing here is near this.
SECONDS = 60


class Counter:
    """Lives in another process."""

    def __init__(self, value: int) -> None:
        if value < 0:
            raise InputError("too low")
        self.value = value

    def add(self, number: int) -> tuple[int, int]:
        self.value += number
        return self.value, os.getpid()

    def print(self) -> None:
        os.write(1, b"noise\n")

    def fail(self) -> None:
        raise InputError("as asked")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self) -> None:
        os._exit(3)

    def hang(self) -> None:
        time.sleep(10 * SECONDS)


def test_an_object_lives_in_one_other_process(capfd: pytest.CaptureFixture[str]) -> None:
    with FreshProcess(Counter, 3) as process:
        first, pid = process.call("add", 1, limit_s=SECONDS)
        second, same = process.call("add", 2)
        with pytest.raises(InputError, match="as asked"):
            process.call("fail")
        process.call("print")
        assert (first, second, pid) == (4, 6, same)
        assert pid != os.getpid()
    assert capfd.readouterr().out == "", "stdout is for results"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_its_making_raises_is_raised_here() -> None:
    with FreshProcess(Counter, -1) as process, pytest.raises(InputError, match="too low"):
        process.call("add", 1)


@pytest.mark.parametrize(("method", "how"), [("die", r"\(SIGSEGV\)"), ("leave", r"\(exit code 3\)")])
def test_a_process_that_ends_is_named(method: str, how: str) -> None:
    with FreshProcess(Counter, 0) as process:
        with pytest.raises(BackendError, match=f"died before it was done {how}"):
            process.call(method, limit_s=SECONDS)
        with pytest.raises(BackendError, match="died"):
            process.call("add", 1)


def test_a_process_that_hangs_is_ended() -> None:
    with FreshProcess(Counter, 0) as process:
        process.call("add", 1)
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"hangs: no answer within 0\.3 s"):
            process.call("hang", limit_s=0.3)
    assert time.monotonic() - began < SECONDS


def test_a_function_with_names() -> None:
    assert in_fresh_process(divmod, 7, 2) == (3, 1)
    assert in_fresh_process(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]


def test_an_end_before_the_answer_is_told_by_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while the other process computes: it finds nobody to send its answer to."""
    process = FreshProcess(partial, time.sleep, 1.0)
    process._connection.send(("__call__", ()))
    process.close()
    assert process._process.exitcode == 0
    assert capfd.readouterr().err == ""
