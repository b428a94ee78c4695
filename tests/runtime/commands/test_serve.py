"""`densepack serve` as a process: it refuses what it cannot do in one line, and ends without losing a request."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path

import pytest

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from tests.command_line import CommandLine
from tests.runtime.serving.load import Outcome, Sent, load, mixed, served

LAST = Path(__file__).parents[2] / "last_version" / "bundle"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a cache of its own."""
    return shutil.copytree(LAST, tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def requests(bundle: Path) -> list[Sent]:
    with QuestionAnswerer.open(bundle) as answerer:
        return mixed(answerer, 400)


def test_a_load_gets_the_librarys_answers(bundle: Path, requests: list[Sent]) -> None:
    with served(bundle) as server:
        outcome = asyncio.run(load(server.port, requests, connections=32))
    assert (outcome.wrong, outcome.lost) == ([], 0)
    assert outcome.statuses[200] > 300
    assert sum(outcome.statuses.values()) == len(requests)


def test_it_tells_what_it_serves(bundle: Path) -> None:
    from densepack_runtime.serving.model import facts_of

    opened = Bundle.open(bundle)
    told = facts_of(opened, choose_backend(opened, "auto", None), None)
    written = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    assert {"backend", "precision", "proof", "parity"} <= told.keys()
    assert told["manifest"]["files"] == written["files"]
    assert "model" not in told["manifest"]
    assert str(bundle) not in json.dumps(told)


def test_sigterm_under_load_loses_nothing_that_was_taken(bundle: Path, requests: list[Sent]) -> None:
    """Clients go on until they are refused: everything before that is answered, rightly, and the end is a good one."""

    async def load_and_end() -> Outcome:
        loading = asyncio.create_task(load(server.port, requests * 20, connections=32))
        await asyncio.sleep(1)
        server.process.terminate()
        return await loading

    with served(bundle) as server:
        outcome = asyncio.run(load_and_end())
        assert server.process.wait(60) == 0
    assert (outcome.wrong, outcome.lost) == ([], 0)
    assert outcome.statuses[200] > 50
    assert outcome.refused > 0  # they did go on


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_says_how_to_get_it(
    densepack: CommandLine, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = densepack("serve", LAST)
    assert done.code == 1
    assert done.error_lines == [
        f"error: the package '{package}' is needed for this and is not installed: pip install 'densepack[serve]'"
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_does_not_listen_beyond_this_host_without_tokens(densepack: CommandLine, bundle: Path, host: str) -> None:
    done = densepack("serve", bundle, "--host", host, "--port", 0)
    assert done.code == 1
    assert done.error_lines == [
        f"error: {host} can be reached from elsewhere, and anybody could ask: name --token-file, or allow it with "
        "--open-to-all"
    ]


def test_what_cannot_be_listened_on_is_one_line(densepack: CommandLine, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = densepack("serve", bundle, "--port", port)
    assert done.error_lines == [f"error: 127.0.0.1:{port} cannot be listened on: Address already in use"]
    done = densepack("serve", bundle, "--host", "no.such.host.invalid")
    assert "error: the host no.such.host.invalid is not known here" in done.error_lines[0]


def test_a_missing_token_file_is_one_line(densepack: CommandLine, bundle: Path, tmp_path: Path) -> None:
    done = densepack("serve", bundle, "--token-file", tmp_path / "none")
    assert done.code == 1
    assert done.error_lines[0].startswith("error: the tokens cannot be read from")
