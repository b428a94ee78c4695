"""What a model does before it answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import densepack_runtime.serving.model as module
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.grid import BATCH_COST
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.sessions.fake_session import FakeSession
from tests.runtime.serving.running import model_of

COST = 200


@pytest.fixture
def model(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(module, "seconds_of", lambda _, rows, length: 1e-5 * (COST + rows * length))
    one = model_of(FakeSession(), windower, Metrics())
    yield one
    one.close()


def test_a_warm_model_knows_what_a_batch_costs(model: Model) -> None:
    assert model.batcher._line.grid.batch_cost == BATCH_COST
    model.warm()
    assert model.batcher._line.grid.batch_cost == COST


def test_nothing_is_run_for_a_server_that_ends(model: Model) -> None:
    model.warm(lambda: False)
    assert model.batcher._line.grid.batch_cost == BATCH_COST
    session = model.session
    assert isinstance(session, FakeSession)
    assert not session.batches
