"""A real Triton server loads the repository strictly, and gives the library's answers over HTTP and gRPC."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from densepack_export.triton.repository import TritonOptions, write_repository
from densepack_runtime.bundle import Bundle
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad
from densepack_runtime.sessions.shapes import Profile
from tests.conftest import REPOSITORY
from tests.export.triton.conftest import WithPlans, a100, h100
from tests.export.triton.server import (
    VARIABLE,
    RefusedError,
    Server,
    Triton,
    installed_triton,
    named_environment,
    running,
)

ENVIRONMENT = named_environment()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(ENVIRONMENT is None, reason=f"{VARIABLE} names no Triton server; docs/triton.md has how to"),
]

DOCUMENT = REPOSITORY / "docs" / "triton.md"
QUESTIONS, CONNECTIONS = 240, 32
# Batches are put together differently, so that sums of floats come in another order.
ROUNDING = 1e-4
Request = Sequence[tuple[str, str]]
BAD: list[tuple[Request, str]] = [
    ([("", "A context.")], "the question is empty"),
    ([("Who?", "")], "the context is empty"),
    ([("who " * 400, "A context.")], "the question has 400 tokens"),
    ([("Who?", "It was Anna."), (" ", "A context.")], "question 2 of 2: the question is empty"),
]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Triton:
    assert ENVIRONMENT is not None
    return installed_triton(ENVIRONMENT, tmp_path_factory.mktemp("triton") / "backends")


@pytest.fixture(scope="module")
def server(triton: Triton, default_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that serves the embedded checkpoint; its models can be unloaded and loaded."""
    folder = tmp_path_factory.mktemp("server")
    write_repository(Bundle.open(default_bundle), folder / "models", TritonOptions())
    flags = ("--model-control-mode=explicit", "--load-model=*")
    with running(triton, folder / "models", folder / "log", *flags) as started:
        yield started


def asked(triton: Triton, server: Server, protocol: str, requests: Sequence[Request]) -> list[Any]:
    """What the client of the document is told: a list of answers a request, or an error."""
    address = f"127.0.0.1:{getattr(server, protocol)}"
    script = Path(__file__).with_name("ask_with_the_docs.py")
    done = subprocess.run(
        [triton.python, script, DOCUMENT, protocol, address, str(CONNECTIONS)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("[("), done.stderr  # what the document itself asks and prints
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def post(server: Server, path: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http}/v2/{path}", data, timeout=60) as answer:
        return json.loads(answer.read() or b"{}")  # type: ignore[no-any-return]


@pytest.mark.shared
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_are_those_of_the_library(
    triton: Triton, server: Server, default_bundle: Path, shared_data: Path, protocol: str
) -> None:
    dataset = read_squad(shared_data / "squad" / "dev-v1.1.json", limit=QUESTIONS)
    pairs = [(question.question, question.context) for question in dataset.questions]
    requests: list[Request] = [[pair] for pair in pairs]
    every = QUESTIONS // len(BAD)
    for number, (bad, _) in enumerate(BAD):
        requests.insert(number * every, bad)
    results = asked(triton, server, protocol, requests)
    for number, (_, message) in reversed(list(enumerate(BAD))):
        assert message in results.pop(number * every)
    with QuestionAnswerer.open(default_bundle, backend="onnxruntime") as library:
        wanted = list(library.answer_many(pairs))
    found = [tuple(answer) for [answer] in results]
    assert [answer[:3] for answer in found] == [(answer.text, answer.start, answer.end) for answer in wanted]
    assert max(abs(score - answer.score) for (*_, score), answer in zip(found, wanted, strict=True)) < ROUNDING


def test_a_request_of_several_questions(triton: Triton, server: Server) -> None:
    pairs = [("Who built it?", "It was built by Anna Berg."), ("Where is it?", "It is in Oslo. " + "It is old. " * 200)]
    [answers] = asked(triton, server, "grpc", [pairs])
    assert [answer[0] for answer in answers] == ["Anna Berg", "Oslo"]


def curl_of_the_document() -> tuple[str, Any]:
    text = DOCUMENT.read_text(encoding="utf-8")
    [(path, body)] = re.findall(r"curl http://localhost:8000/v2/(\S+) -d '(.*?)'", text, re.DOTALL)
    return path, json.loads(body)


def test_plain_json_as_the_document_shows_it(server: Server) -> None:
    outputs = {output["name"]: output for output in post(server, *curl_of_the_document())["outputs"]}
    assert {name: output["datatype"] for name, output in outputs.items()} == {
        "answer": "BYTES",
        "start": "INT32",
        "end": "INT32",
        "score": "FP64",
    }
    assert [outputs[name]["data"] for name in ("answer", "start", "end")] == [["Anna Berg"], [16], [25]]


def test_both_models_say_what_they_take(server: Server) -> None:
    engine = post(server, "models/question_answering_engine")
    assert engine["platform"] == "onnxruntime_onnx"
    assert engine["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert engine["outputs"][1] == {"name": "end_logits", "datatype": "FP32", "shape": [-1, -1]}
    texts = post(server, "models/question_answering")
    assert [tensor["name"] for tensor in texts["inputs"]] == ["question", "context"]
    assert texts["inputs"][0] == {"name": "question", "datatype": "BYTES", "shape": [-1, 1]}


def test_an_engine_that_is_gone_is_an_error_and_comes_back(server: Server) -> None:
    [path, body] = curl_of_the_document()
    post(server, "repository/models/question_answering_engine/unload", {})
    try:
        with pytest.raises(HTTPError) as failure:
            post(server, path, body)
        error = json.loads(failure.value.read())["error"]
        assert failure.value.code == 500
        assert error.startswith("the model question_answering_engine failed: ")
    finally:
        post(server, "repository/models/question_answering_engine/load", {})
    assert post(server, path, body)["outputs"][0]["data"] == ["Anna Berg"]


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    """That of the tiny bundle, with a short queue."""
    folder = tmp_path / "models"
    write_repository(Bundle.open(bundle), folder, TritonOptions(device="cpu", max_queue=1))
    return folder


def test_a_full_queue_refuses_and_loses_nothing(triton: Triton, repository: Path, tmp_path: Path) -> None:
    slow = "The tower was built by Anna Berg near the old harbour of Oslo. " * 200
    with running(triton, repository, tmp_path / "log") as server:
        results = asked(triton, server, "grpc", [[("Who?", slow)]] * 60)
    refused = [result for result in results if isinstance(result, str)]
    assert all("Exceeds maximum queue size" in error for error in refused)
    assert 0 < len(refused) < len(results)
    assert len({str(result) for result in results if not isinstance(result, str)}) == 1


ENGINE, TEXTS = "question_answering_engine", "question_answering"


@pytest.mark.parametrize(
    ("model", "pattern", "replacement", "message"),
    [
        (ENGINE, "max_batch_size: 64", "max_batch_size: -5", "max_batch_size"),
        (ENGINE, "max_queue_size", "most_waiting", 'no field named "most_waiting"'),
        (ENGINE, "TYPE_INT64", "TYPE_INT65", "TYPE_INT65"),
        (ENGINE, "KIND_CPU", "KIND_GPU", "no GPUs are available"),
        (ENGINE, "dims: 32", "dims: 33", "'1 x 32'"),
        (ENGINE, 'backend: "onnxruntime"', 'backend: "abacus"', "abacus"),
        (TEXTS, 'backend: "python"', 'backend: "abacus"', "abacus"),
        (TEXTS, f'name: "{TEXTS}"', 'name: "other"', "other"),
        (TEXTS, "dims: 1\n", "", "dims"),
    ],
)
def test_a_broken_configuration_is_refused(
    triton: Triton, repository: Path, tmp_path: Path, model: str, pattern: str, replacement: str, message: str
) -> None:
    path = repository / model / "config.pbtxt"
    text = path.read_text(encoding="utf-8")
    assert pattern in text
    path.write_text(text.replace(pattern, replacement, 1), encoding="utf-8")
    with pytest.raises(RefusedError, match=message), running(triton, repository, tmp_path / "log"):
        pass


@pytest.mark.parametrize("name", ["tokenizer.json", "settings.json"])
def test_a_text_model_without_a_file_is_refused(triton: Triton, repository: Path, tmp_path: Path, name: str) -> None:
    (repository / TEXTS / "1" / name).unlink()
    with pytest.raises(RefusedError, match=name), running(triton, repository, tmp_path / "log"):
        pass


def test_a_repository_of_plans_loads_and_answers(triton: Triton, with_plans: WithPlans, tmp_path: Path) -> None:
    """There is no GPU and no TensorRT: the configuration is Triton's to judge, the "plan" is the graph."""
    profiles = (Profile((1, 1), (8, 16), (8, 16)), Profile((1, 17), (8, 32), (8, 32)))
    bundle = with_plans(h100(profiles=profiles), a100(profiles=profiles))
    folder = tmp_path / "models"
    write_repository(Bundle.open(bundle), folder, TritonOptions())
    for name in ("sm90.plan", "sm80.plan"):
        shutil.copy(bundle / "model.onnx", folder / ENGINE / "1" / name)
    config = folder / ENGINE / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("KIND_GPU", "KIND_CPU"), encoding="utf-8")
    pairs = [("Who?", "The tower was built by Anna Berg near the old harbour of Oslo. " * 9)]
    with running(triton, folder, tmp_path / "log") as server:
        [[[text, *_]]] = asked(triton, server, "http", [pairs])
    assert text in pairs[0][1]
