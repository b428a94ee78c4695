"""What a model does before it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import densepack_runtime.serving.model as module
from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.batcher import Asked
from densepack_runtime.serving.grid import BATCH_COST
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reopening import ReopenedSession
from densepack_runtime.sessions.fake_session import FakeSession
from densepack_runtime.sessions.lanes import lanes_in
from densepack_runtime.sessions.options import SessionOptions
from tests.runtime.serving.running import model_of

COST = 200
LAST = Path(__file__).parents[2] / "last_version" / "bundle"


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


@pytest.mark.parametrize(
    ("backend", "threads", "asked", "lanes"),
    [
        ("openvino", 2, None, 2),
        ("openvino", 1, None, 1),
        ("openvino", 1, 3, 3),
        ("openvino", 2, 1, 1),
        ("onnxruntime", 2, None, 1),
        ("onnxruntime", 2, 2, 2),
    ],
)
def test_a_model_has_the_lanes_that_its_backend_gains_by_or_that_are_asked_for(
    backend: str, threads: int, asked: int | None, lanes: int, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    session = SessionOptions(threads, cache=tmp_path)
    options = ServerOptions(backend=backend, precision="fp32", session=session, lanes=asked)
    model = Model.open(LAST, options, Metrics(), lambda error: pytest.fail(str(error)))
    try:
        assert len(lanes_in(model.session)) == len(model.batcher._lanes) == lanes
        [future] = model.batcher.ask([Asked("Who built it?", "Anna Berg built it.", SpanRules())], 30)
        assert future.result().answers
        assert isinstance(model.answerer.session, ReopenedSession)
        with model.answerer.session._open_again() as again:
            assert len(lanes_in(again)) == lanes
    finally:
        model.close()


def test_nothing_is_run_for_a_server_that_ends(model: Model) -> None:
    model.warm(lambda: False)
    assert model.batcher._line.grid.batch_cost == BATCH_COST
    session = model.session
    assert isinstance(session, FakeSession)
    assert not session.batches
