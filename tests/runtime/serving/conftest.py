"""Servers for the tests of a file: one that they change nothing of, and others of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving import server
from densepack_runtime.sessions.fake_session import FakeSession
from tests.runtime.serving.running import Held, Running, running


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json, max_length=32, doc_stride=8)


@pytest.fixture(scope="module")
def one_server(windower: Windower) -> Iterator[Running]:
    with running(FakeSession(), windower) as one:
        yield one


@pytest.fixture
def serve(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Start servers that end soon after the test."""
    monkeypatch.setattr(server, "GRACE_S", 0.05)
    with ExitStack() as servers:
        yield lambda session=None, **options: servers.enter_context(
            running(session or FakeSession(), windower, **options)
        )


@pytest.fixture
def held() -> Iterator[Held]:
    one = Held()
    yield one
    one.go.set()
