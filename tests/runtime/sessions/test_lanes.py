"""As many batches are run at once as there are sessions, and the one that was used last is used next."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from densepack_runtime.backends import choose_backend, open_choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError
from densepack_runtime.serving.grid import batch_of
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.lanes import Lanes, lanes_in
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits
from tests.runtime.sessions.test_onnxruntime_session import make_batch

WAIT_S = 10.0


def test_batches_are_run_at_once_and_a_third_waits() -> None:
    together, go = threading.Barrier(3), threading.Event()

    def run(batch: Batch) -> Logits:
        if not go.is_set():
            together.wait(WAIT_S)
            assert go.wait(WAIT_S)
        return made_up_logits(batch)

    sessions = [FakeSession(run), FakeSession(run)]
    lanes, found = Lanes(sessions), list[Logits]()
    threads = [threading.Thread(target=lambda: found.append(lanes.run(make_batch(2, 8)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    together.wait(WAIT_S)
    assert [len(session.batches) for session in sessions] == [1, 1]
    go.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(found) == 3
    assert sum(len(session.batches) for session in sessions) == 3


def test_one_batch_after_the_other_keeps_to_one_session() -> None:
    sessions = [FakeSession(), FakeSession()]
    lanes = Lanes(sessions)
    for length in (4, 8, 16):
        lanes.run(make_batch(1, length))
    assert [len(session.batches) for session in sessions] == [3, 0]


def test_a_session_that_breaks_is_free_again() -> None:
    def fail(_: Batch) -> Logits:
        raise BackendError("broken")

    lanes = Lanes([FakeSession(fail)])
    for _ in range(2):
        with pytest.raises(BackendError, match="broken"):
            lanes.run(make_batch(1, 4))


def test_all_are_closed() -> None:
    sessions = [FakeSession(), FakeSession()]
    Lanes(sessions).close()
    assert all(session.closed for session in sessions)


def test_where_one_cannot_be_opened_the_others_are_closed() -> None:
    first = FakeSession()
    left = [first]
    with pytest.raises(IndexError):
        Lanes.of(2, lambda: left.pop(0))
    assert first.closed


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_bundle_in_lanes_computes_the_same(default_bundle: Path, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    bundle, batch = Bundle.open(default_bundle), batch_of(2, 24)
    choice = choose_backend(bundle, backend, "fp32")
    with (
        open_choice(bundle, choice, SessionOptions(1, cache=tmp_path)) as alone,
        open_choice(bundle, choice, SessionOptions(1, cache=tmp_path, lanes=2)) as lanes,
    ):
        assert (len(lanes_in(alone)), len(lanes_in(lanes))) == (1, 2)
        wanted = alone.run(batch)
        for session in (*lanes_in(lanes), lanes):
            np.testing.assert_allclose(session.run(batch).start, wanted.start, atol=1e-5)
