"""One server for the tests of a file that change nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fake_session import FakeSession
from tests.runtime.serving.running import Running, running


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json, max_length=32, doc_stride=8)


@pytest.fixture(scope="module")
def one_server(windower: Windower) -> Iterator[Running]:
    with running(FakeSession(), windower) as one:
        yield one
