"""The session without a model that tests and users share."""

from __future__ import annotations

import numpy as np
import pytest

from densepack_runtime.errors import BackendError
from densepack_runtime.sessions.fake_session import FakeSession
from densepack_runtime.sessions.session import Batch, Logits, Session


def batch(ids: list[list[int]]) -> Batch:
    array = np.array(ids, dtype=np.int64)
    return Batch(array, np.ones_like(array), np.zeros_like(array))


def test_a_token_has_the_same_logits_in_every_batch_and_padding() -> None:
    with FakeSession() as session:
        assert isinstance(session, Session)
        alone = session.run(batch([[7, 8, 9]]))
        together, _ = session.run_many([batch([[1, 2, 3, 4], [7, 8, 9, 0]]), batch([[1]])])
    assert alone.start.dtype == alone.end.dtype == np.float32
    np.testing.assert_array_equal(alone.start[0], together.start[1, :3])
    np.testing.assert_array_equal(alone.end[0], together.end[1, :3])
    assert len(set(alone.start[0].tolist() + alone.end[0].tolist())) == 6
    assert [seen.shape for seen in session.batches] == [(1, 3), (2, 4), (1, 1)]


def test_it_gives_the_logits_that_it_is_told_and_refuses_when_closed() -> None:
    told = Logits(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))
    session = FakeSession(lambda _: told)
    assert session.run(batch([[1, 2]])) is told
    session.close()
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.run(batch([[1, 2]]))
