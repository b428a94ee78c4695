"""`densepack serve --ray`: the files that the documents show, and the server's answers from replicas."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.types import Message, Receive, Scope, Send

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.ray_application import NAME, Served, _Door, application, most_replicas, read_settings
from tests.command_line import CommandLine
from tests.conftest import REPOSITORY
from tests.processes import command_line, descendants, listening, wait_until
from tests.runtime.serving.asking import ask
from tests.runtime.serving.load import Sent, load, mixed, served
from tests.runtime.serving.load import Served as Server

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # of ray.serve itself
LAST = REPOSITORY / "tests" / "last_version" / "bundle"
TRIES = 20
NOBODY = 0


def documented(name: str) -> Any:
    """A file that docs/serving.md shows."""
    text = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    [shown] = re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
    return yaml.safe_load(shown)


# --- without a cluster -----------------------------------------------------------------------------------------------


def test_ray_takes_the_file_for_serve_deploy() -> None:
    from ray.serve.schema import ServeDeploySchema

    [asked] = ServeDeploySchema.model_validate(documented("serve.yaml")).applications
    assert asked.import_path == f"{application.__module__}:{application.__name__}"
    [deployment] = asked.deployments
    bound = application(asked.args)
    assert deployment.name == NAME == bound._bound_deployment.name
    assert bound._bound_deployment.max_ongoing_requests == 256
    assert bound._bound_deployment._deployment_config.backpressure_config.status_code == 429
    [replica] = bound._bound_deployment.init_args
    assert replica == Served("/models/bundle", "tensorrt", "fp16", token_file="/run/secrets/tokens")


def test_settings_are_those_of_rays_own_schema(tmp_path: Path) -> None:
    path = tmp_path / "replicas.yaml"
    path.write_text(yaml.safe_dump(documented("replicas.yaml")), encoding="utf-8")
    settings = read_settings(path)
    assert settings["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.25}
    assert most_replicas(settings) == 4
    assert read_settings(None) == {}
    assert [most_replicas(one) for one in ({}, {"num_replicas": 3})] == [1, 3]
    for text in ("num_replicas: -1", "replicas: 2", "- 1", "num_replicas: [", "ray_actor_options: {num_gpus: many}"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"replicas\.yaml has no settings of a deployment on Ray Serve: "):
            read_settings(path)
    with pytest.raises(InputError, match="it is 'auto': autoscaling_config has max_replicas"):
        most_replicas({"num_replicas": "auto"})


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "missing required field `bundle`"),
        ({"bundle": "/b", "threads": 2}, "unknown: `threads`"),
        ({"bundle": "/b", "precision": "fp8"}, "Invalid enum value 'fp8'"),
    ],
)
def test_arguments_that_are_wrong_are_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        application(args)


def test_a_config_is_for_ray(densepack: CommandLine, tmp_path: Path) -> None:
    done = densepack("serve", LAST, "--ray-config", tmp_path / "two.yaml")
    assert done.error_lines == [f"error: {tmp_path / 'two.yaml'} is for Ray Serve, which was not asked for: add --ray"]
    done = densepack("serve", LAST, "--ray", "--host", "0.0.0.0", "--port", 0)
    assert "0.0.0.0 can be reached from elsewhere" in done.err


def test_a_closed_door_lets_those_out_that_are_in() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await leave.wait()
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b"{}"})

    async def both() -> tuple[int, int, dict[str, str]]:
        inside = asyncio.create_task(ask(door, "GET", "/"))
        while not door.inside:
            await asyncio.sleep(0)
        door.closed = True
        refused = await ask(door, "GET", "/")
        leave.set()
        return (await inside).status, refused.status, dict(refused.headers)

    leave = asyncio.Event()
    door = _Door(slow)
    done, refused, headers = asyncio.run(both())
    assert (done, refused, door.inside) == (200, 503, 0)
    assert (headers["connection"], headers["retry-after"]) == ("close", "1")


# --- with one --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(LAST, tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def requests(bundle: Path) -> list[Sent]:
    with QuestionAnswerer.open(bundle, backend="onnxruntime") as answerer:
        return mixed(answerer, 300)


@pytest.fixture(scope="module")
def two_replicas(bundle: Path) -> Iterator[Server]:
    config = bundle.parent / "two.yaml"
    config.write_text("num_replicas: 2\nray_actor_options: {num_cpus: 1}\n", encoding="utf-8")
    options = ("--backend", "onnxruntime", "--precision", "fp32", "--ray", "--ray-config", str(config))
    with served(bundle, *options) as server:
        yield server


def replicas_of(server: Server) -> list[int]:
    return [pid for pid, told in descendants(server.process.pid).items() if told.startswith("ray::ServeReplica")]


def ask_once(server: Server, sent: Sent) -> tuple[float, int, bool]:
    """When it was asked, the status, and whether the answer was the library's."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/v1/answer", sent.body)
        response = connection.getresponse()
        body = response.read()
        return begun, response.status, response.status < 500 and sent.fits(response.status, json.loads(body))
    except (OSError, http.client.HTTPException):
        return begun, NOBODY, False
    finally:
        connection.close()


def ask_until_answered(server: Server, sent: Sent) -> bool:
    """Whether the answer was the library's."""
    for _ in range(TRIES):
        _, status, right = ask_once(server, sent)
        if NOBODY < status < 500:
            return right
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_replicas_give_the_librarys_answers(two_replicas: Server, requests: list[Sent]) -> None:
    outcome = asyncio.run(load(two_replicas.port, requests, connections=32))
    assert (outcome.wrong, outcome.lost, outcome.refused) == ([], 0, 0)
    assert outcome.statuses[200] > 250
    ours = {two_replicas.process.pid, *descendants(two_replicas.process.pid)}
    heard = listening(ours)
    assert heard
    assert all(address.is_loopback for address in heard)


@pytest.mark.slow
def test_clients_that_try_again_lose_nothing_when_a_replica_is_killed(
    two_replicas: Server, requests: list[Sent]
) -> None:
    before = replicas_of(two_replicas)
    assert len(before) == 2
    with ThreadPoolExecutor(32) as clients:
        answers = [clients.submit(ask_until_answered, two_replicas, sent) for sent in requests * 3]
        assert wait_until(lambda: sum(answer.done() for answer in answers) > 50, 60)
        os.kill(before[0], signal.SIGKILL)
        outcomes = [answer.result() for answer in answers]
    assert all(outcomes)
    assert wait_until(lambda: len(set(replicas_of(two_replicas)) - {before[0]}) == 2, 60)


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_that_was_taken(two_replicas: Server, requests: list[Sent]) -> None:
    """The last test of these replicas. Who comes after the first 503 may also find nobody there."""
    theirs = descendants(two_replicas.process.pid)
    with ThreadPoolExecutor(32) as clients:
        asked = [clients.submit(ask_once, two_replicas, sent) for sent in requests * 3]
        assert wait_until(lambda: sum(answer.done() for answer in asked) > 50, 60)
        two_replicas.process.terminate()
        outcomes = [answer.result() for answer in asked]
    assert two_replicas.process.wait(60) == 0
    ended = min(begun for begun, status, _ in outcomes if status in (503, NOBODY))
    assert all(right for _, status, right in outcomes if status not in (503, NOBODY))
    assert all(begun >= ended for begun, status, _ in outcomes if status == NOBODY)
    assert sum(right for _, _, right in outcomes) > 50
    assert wait_until(lambda: not any(command_line(pid) == told for pid, told in theirs.items()), 10)
