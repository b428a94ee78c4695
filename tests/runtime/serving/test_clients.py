"""Those who ask: the Hugging Face client, another application around ours, a tester of the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.applications import Starlette
from starlette.routing import Mount

from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.application import application_of
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.openapi import openapi
from densepack_runtime.sessions.fake_session import FakeSession
from tests.runtime.serving.asking import ask
from tests.runtime.serving.running import Running

EXAMPLES = 15
BOUNDED: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
QUESTION, CONTEXT = "Who built the bridge?", "The bridge was built by Anna Berg in 1901, the mill by nobody."
ASKED = {"question": QUESTION, "context": CONTEXT}


@pytest.mark.parametrize("place", ["", "models/fake"])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"top_k": 1},
        {"top_k": 4},
        {"align_to_words": False},
        {"align_to_words": True, "top_k": 2},
        {"max_answer_len": 2, "handle_impossible_answer": True},
        {"handle_impossible_answer": True, "top_k": 3},
    ],
)
def test_the_hugging_face_client_reads_what_the_pipeline_gave(
    one_server: Running, windower: Windower, chosen: dict[str, Any], place: str
) -> None:
    client = InferenceClient(f"http://127.0.0.1:{one_server.port}/{place}", timeout=30)
    found = client.question_answering(QUESTION, CONTEXT, **chosen)
    rules = PipelineRules(**chosen)
    library = QuestionAnswerer(FakeSession(), windower, pipeline_rules=rules).best_answers(
        question=QUESTION, context=CONTEXT, count=rules.top_k, compat="transformers"
    )
    listed = found if isinstance(found, list) else [found]
    assert isinstance(found, list) == (rules.top_k > 1)
    assert [(one.answer, one.start, one.end, one.score) for one in listed] == [
        (one.text, one.start, one.end, one.score) for one in library
    ]


def test_the_hugging_face_client_hears_what_the_server_does_not_take(one_server: Running) -> None:
    client = InferenceClient(f"http://127.0.0.1:{one_server.port}/", timeout=30)
    with pytest.raises(HfHubHTTPError, match="422") as caught:
        client.question_answering(QUESTION, CONTEXT, doc_stride=64)
    assert "'doc_stride' is unknown" in caught.value.response.text


def test_the_application_works_under_a_prefix_of_another(one_server: Running, tmp_path: Path) -> None:
    outer = Starlette(routes=[Mount("/deep/qa", application_of(one_server.service))])
    direct = one_server("POST", "/v1/answer", ASKED).json
    assert asyncio.run(ask(outer, "POST", "/deep/qa/v1/answer", json.dumps(ASKED).encode())).json == direct
    assert asyncio.run(ask(outer, "GET", "/deep/qa/")).headers["content-type"].startswith("text/html")
    for method, path, status in (
        ("GET", "/deep/qa/nothing", 404),
        ("PUT", "/deep/qa/", 405),
        ("POST", "/deep/qa/v1/answer", 400),
    ):
        got = asyncio.run(ask(outer, method, path, b"x"))
        assert (got.status, list(got.json)) == (status, ["error"]), "the outer application's own errors are no JSON"
        assert "x-request-id" in got.headers
    assert asyncio.run(ask(outer, "GET", "/deep/qa/openapi.json")).json["servers"] == [{"url": "/deep/qa"}]


def test_a_token_is_asked_for_under_a_prefix_but_not_for_probes(
    one_server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text("s" * 16)
    monkeypatch.setattr(one_server.service, "bearers", Bearers.read(tmp_path / "tokens"))
    outer = Starlette(routes=[Mount("/qa", application_of(one_server.service))])
    statuses = {
        path: asyncio.run(ask(outer, "GET", f"/qa{path}")).status
        for path in ("/", "/healthz", "/v2/health/ready", "/v1/model", "/metrics")
    }
    assert statuses == {"/": 200, "/healthz": 200, "/v2/health/ready": 200, "/v1/model": 401, "/metrics": 401}


def test_a_schema_tester_finds_nothing_on_any_endpoint(one_server: Running) -> None:
    """Bodies as the document has them, and broken ones: only statuses, types and schemas that it names, and no 5xx."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{one_server.port}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    asked_for = {*openapi("fake", secured=False)["paths"]} - {"/openapi.json"}  # which it has read already
    assert {operation.path for operation in operations} == asked_for
    answered = Counter[tuple[str, int]]()
    for operation in operations:
        for mode in GenerationMode if operation.method == "post" else [GenerationMode.POSITIVE]:

            @settings(max_examples=EXAMPLES, **BOUNDED)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                # That a text has words, and not too many, is no matter of a schema.
                response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
                answered[case.path, response.status_code] += 1

            check()
    for path in ("/", "/v1/answer", "/models/{name}", "/v1/model", "/v2"):
        assert answered[path, 200]
