"""A session that breaks is opened again, once a batch; what breaks twice ends the server, and nobody waits in vain."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import pytest

from densepack_runtime.backends import BACKENDS, Backend
from densepack_runtime.errors import BackendError, InputError, UnavailableError
from densepack_runtime.serving.reopening import ReopenedSession
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits
from tests.command_line import CommandLine
from tests.runtime.serving.bundles import another
from tests.runtime.serving.running import WAIT_S, Running

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
ASKED = {"question": "Who was Chopin?", "context": "Frédéric Chopin was a Polish composer and pianist."}
ONES = np.ones((1, 8), np.int64)
BATCH = Batch(ONES, ONES, ONES)


def breaking(*errors: Exception) -> FakeSession:
    """A session that raises these, one after the other, before it answers."""
    left = list(errors)

    def run(batch: Batch) -> Logits:
        if left:
            raise left.pop(0)
        return made_up_logits(batch)

    return FakeSession(run)


GONE = RuntimeError("the device is gone")


def fail(error: Exception) -> None:
    pytest.fail(f"gave up: {error}")


def test_a_batch_that_breaks_its_session_is_run_by_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    first, second, third = breaking(GONE), breaking(), breaking()
    opened = [second, third]
    session = ReopenedSession(first, lambda: opened.pop(0), fail)
    found, wanted = session.run(BATCH), made_up_logits(BATCH)
    assert (found.start == wanted.start).all()
    assert "the session broke and is opened again: RuntimeError: the device is gone" in caplog.text
    session.run(BATCH)
    assert (first.closed, second.closed, len(second.batches), opened) == (True, False, 2, [third])
    session.close()
    assert second.closed


def test_what_breaks_in_several_threads_is_opened_once(caplog: pytest.LogCaptureFixture) -> None:
    both = threading.Barrier(2)

    def break_together(_: Batch) -> Logits:
        both.wait(WAIT_S)
        raise GONE

    second, found = breaking(), list[Logits]()
    opened = [second]
    session = ReopenedSession(FakeSession(break_together), lambda: opened.pop(0), fail)
    threads = [threading.Thread(target=lambda: found.append(session.run(BATCH))) for _ in range(both.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert (len(found), len(second.batches), opened) == (2, 2, [])
    assert caplog.text.count("is opened again") == 1


def test_what_breaks_for_good_in_several_threads_is_told_once() -> None:
    both, heard, refused = threading.Barrier(2), list[Exception](), list[UnavailableError]()

    def break_together(_: Batch) -> Logits:
        both.wait(WAIT_S)
        raise GONE

    def run() -> None:
        try:
            session.run(BATCH)
        except UnavailableError as error:
            refused.append(error)

    session = ReopenedSession(FakeSession(break_together), lambda: FakeSession(break_together), heard.append)
    threads = [threading.Thread(target=run) for _ in range(both.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert (len(refused), heard) == (2, [GONE])


def test_every_batch_may_break_one_session() -> None:
    """Months of answers lie between two resets of a driver."""
    opened = [breaking(), breaking()]
    session = ReopenedSession(breaking(GONE), lambda: opened.pop(0), fail)
    session.run(BATCH)
    session._session = breaking(GONE)
    session.run(BATCH)
    assert opened == []


def test_a_batch_that_breaks_two_sessions_is_the_last() -> None:
    second, heard = breaking(BackendError("again")), list[Exception]()
    session = ReopenedSession(breaking(GONE), lambda: second, heard.append)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="the model of this server broke"):
            session.run(BATCH)
    assert list(map(str, heard)) == ["again"]
    assert len(second.batches) == 1


def test_one_that_cannot_be_opened_again_is_the_last() -> None:
    heard: list[Exception] = []

    def open_again() -> FakeSession:
        raise BackendError("no device")

    session = ReopenedSession(breaking(GONE), open_again, heard.append)
    with pytest.raises(UnavailableError):
        session.run(BATCH)
    assert list(map(str, heard)) == ["no device"]


def test_what_is_the_inputs_fault_breaks_nothing() -> None:
    session = ReopenedSession(breaking(InputError("no")), pytest.fail, fail)
    with pytest.raises(InputError):
        session.run(BATCH)


def test_accepted_requests_get_503_when_the_model_is_broken(serve: Callable[..., Running]) -> None:
    first = FakeSession(_after_the_warm_up)
    one = serve(ReopenedSession(first, lambda: breaking(GONE), lambda error: one.service.give_up(error)))
    got = one("POST", "/v1/answer", [ASKED] * 5)
    assert (got.status, got.headers["connection"]) == (503, "close")
    assert got.json == {"error": "the model of this server broke: ask another one"}
    assert one.service.failure is GONE


def plant(monkeypatch: pytest.MonkeyPatch, *sessions: FakeSession) -> None:
    """A backend that opens these one after the other."""
    left = list(sessions)
    monkeypatch.setitem(BACKENDS, "planted", Backend("planted", ("fp32",), lambda *_: left.pop(0)))


@pytest.mark.parametrize(
    ("second", "exchanged", "reason"),
    [
        (breaking(GONE), False, "the device is gone"),
        (breaking(), True, "has another bundle by now than the one that is served"),
    ],
)
def test_the_process_ends_with_the_reason_for_its_supervisor(
    densepack: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    second: FakeSession,
    exchanged: bool,
    reason: str,
) -> None:
    warmed = FakeSession(_after_the_warm_up)
    plant(monkeypatch, warmed, second)
    folder = tmp_path / "bundle"
    shutil.copytree(LAST, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    statuses: list[int] = []

    def ask() -> None:
        wait_until_ready(port)
        if exchanged:
            shutil.rmtree(folder)
            another(LAST, folder)
        statuses.append(status_of(f"http://127.0.0.1:{port}/v1/answer", json.dumps(ASKED).encode()))

    client = threading.Thread(target=ask)
    client.start()
    done = densepack("serve", folder, "--backend", "planted", "--precision", "fp32", "--port", port)
    client.join(WAIT_S)
    assert (done.code, statuses) == (1, [503])
    [error] = done.error_lines
    assert error.startswith("error: the session broke, was opened again, and broke again: ")
    assert reason in error


def _after_the_warm_up(batch: Batch) -> Logits:
    if batch.windows:
        raise GONE
    return made_up_logits(batch)


def wait_until_ready(port: int) -> None:
    end = time.monotonic() + WAIT_S
    while status_of(f"http://127.0.0.1:{port}/readyz") != 200:
        assert time.monotonic() < end
        time.sleep(0.01)


def status_of(url: str, body: bytes | None = None) -> int:
    """0 where nobody listens."""
    try:
        with urlopen(url, body) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code
    except URLError:
        return 0
