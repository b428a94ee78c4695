"""Several processes at one port: they share what comes, and one that dies takes along what it held and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from densepack_runtime.errors import BackendError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.link import Link
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.sessions.options import SessionOptions
from tests.command_line import CommandLine
from tests.runtime.serving.bundles import another, damaged, relink
from tests.runtime.serving.load import Outcome, Sent, Served, load, mixed, served
from tests.runtime.serving.running import WAIT_S

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
ONNX = ("--backend", "onnxruntime", "--precision", "fp32")


@pytest.mark.parametrize(("workers", "threads"), [(2, [3, 2]), (3, [2, 2, 1]), (7, [1] * 7)])
def test_threads_and_queue_are_divided(workers: int, threads: list[int]) -> None:
    shares = ServerOptions(session=SessionOptions(threads=5), workers=workers, most_tokens=700).shares()
    assert [share.session.threads for share in shares] == threads
    assert {share.most_tokens for share in shares} == {700 // workers}


def test_both_ends_of_a_link_call_each_other() -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise ValueError("no\nfolder")

    async def never() -> None:
        await asyncio.Event().wait()

    async def talk() -> None:
        ours, theirs = socket.socketpair()
        here, there = Link(double=double), Link(double=double, fail=fail, never=never)
        running = [asyncio.create_task(link.run(end)) for link, end in ((here, ours), (there, theirs))]
        await asyncio.sleep(0.01)
        assert await asyncio.gather(*(here.call("double", number) for number in range(50))) == list(range(0, 100, 2))
        assert await there.call("double", 4) == 8
        with pytest.raises(BackendError, match="^no folder$"):
            await here.call("fail")
        waiting = asyncio.create_task(here.call("never"))
        await asyncio.sleep(0.01)
        running[1].cancel()
        for call in (waiting, here.call("double", 1)):
            with pytest.raises(BackendError, match="is gone"):
                await call
        await running[0]

    asyncio.run(talk())


def test_one_that_cannot_start_ends_the_whole_with_its_error(densepack: CommandLine, tmp_path: Path) -> None:
    done = densepack("serve", damaged(LAST, tmp_path / "bundle"), "--port", 0, "--workers", 2)
    assert done.code == 1
    [error] = done.error_lines
    assert error.startswith(f"error: the bundle {tmp_path}/bundle is not as it was built: model.onnx has 100 bytes")


def test_a_worker_that_is_killed_loses_only_what_it_held(tmp_path: Path) -> None:
    """Clients that send again lose nothing; the others go on, count on, and all of them reload and end together."""
    link, later = tmp_path / "current", another(LAST, tmp_path / "later")
    relink(link, LAST)
    with QuestionAnswerer.open(LAST) as before, QuestionAnswerer.open(later) as after:
        requests, by_later = mixed(before, 200), mixed(after, 200)
    with served(link, *ONNX, "--workers", "2") as server:
        shares = [asyncio.run(connections_of(server, 16)) for _ in range(3)]
        assert max(map(min, shares)) >= 3, shares  # a host that is busy may give one of them no turn meanwhile
        outcome = asyncio.run(load_while(server, requests * 4, lambda: os.kill(server.workers()[0], signal.SIGKILL)))
        assert (outcome.wrong, outcome.lost, outcome.refused) == ([], 0, 0)
        assert outcome.retried > 0
        assert sum(outcome.statuses.values()) == 4 * len(requests)
        wait_for(lambda: len(server.workers()) == 2)
        assert counted(server, "requests_total") >= 4 * len(requests) - 8
        relink(link, later)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: counted(server, "reloads_total") == 1)
        outcome = asyncio.run(load(server.port, by_later, connections=8))
        assert (outcome.wrong, outcome.lost) == ([], 0)
        ending = server.workers()
        outcome = asyncio.run(load_while(server, by_later * 50, server.process.terminate, tries=1))
        assert (outcome.wrong, outcome.lost) == ([], 0)
        assert outcome.refused > 0
        assert server.process.wait(WAIT_S) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ending)


async def connections_of(server: Served, count: int) -> list[int]:
    """How many of so many connections at once each worker accepts."""
    before = [open_files(pid) for pid in server.workers()]
    streams = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)))
    held = [0]
    while sum(held) < count:
        await asyncio.sleep(0.01)
        held = [open_files(pid) - had for pid, had in zip(server.workers(), before, strict=True)]
    for _, writer in streams:
        writer.close()
    while any(open_files(pid) > had for pid, had in zip(server.workers(), before, strict=True)):
        await asyncio.sleep(0.01)
    return held


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def load_while(server: Served, requests: list[Sent], do: Callable[[], object], tries: int = 100) -> Outcome:
    """Do something when the load has begun."""
    loading = asyncio.create_task(load(server.port, requests, connections=8, tries=tries))
    await asyncio.sleep(0.5)
    do()
    return await loading


def counted(server: Served, name: str) -> float:
    page = urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode()
    return sum(map(float, re.findall(rf"^densepack_{name}{{.*}} (.*)$", page, re.MULTILINE)))


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)
