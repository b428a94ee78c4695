"""HTTP in and out: the library's answers, the right status for everything else, and nobody's words in an error."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.errors import BackendError
from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving import server
from densepack_runtime.serving.application import MOST_BYTES
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.openapi import openapi
from densepack_runtime.serving.requests import MOST_QUESTIONS
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits
from tests.runtime.serving.running import WAIT_S, Held, Running

CONTEXT = "The bridge was built by Anna Berg in 1901, and the mill by nobody whom the über-old harbour remembers."
QUESTION = "Who built the bridge?"
ASKED = {"question": QUESTION, "context": CONTEXT}


def library(windower: Windower, rules: SpanRules | PipelineRules, count: int) -> list[dict[str, Any]]:
    if isinstance(rules, PipelineRules):
        answerer = QuestionAnswerer(FakeSession(), windower, pipeline_rules=rules)
        found = answerer.best_answers(question=QUESTION, context=CONTEXT, count=count, compat="transformers")
    else:
        answerer = QuestionAnswerer(FakeSession(), windower, rules=rules)
        found = answerer.best_answers(question=QUESTION, context=CONTEXT, count=count)
    return [answer.as_dict() for answer in found]


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({}, SpanRules()),
        ({"id": None, "null_threshold": None}, SpanRules()),
        ({"max_answer_tokens": 2}, SpanRules(max_answer_tokens=2)),
        ({"null_threshold": -1e9}, SpanRules(null_threshold=-1e9)),
        ({"compat": "transformers"}, PipelineRules()),
        ({"compat": "transformers", "max_answer_tokens": 3}, PipelineRules(max_answer_len=3)),
    ],
)
@pytest.mark.parametrize("count", [1, 4])
def test_a_question_gets_the_librarys_answers(
    serve: Callable[..., Running], windower: Windower, given: dict[str, Any], rules: SpanRules, count: int
) -> None:
    got = serve()("POST", "/v1/answer", {**ASKED, "n_best": count, **given})
    best = library(windower, rules, count)
    assert got.status == 200
    assert got.json == {**best[0], **({"answers": best} if count > 1 else {})}
    assert "tokenise;dur=" in got.headers["server-timing"]


def test_a_list_is_answered_in_order_with_errors_in_their_places(
    serve: Callable[..., Running], windower: Windower
) -> None:
    got = serve()("POST", "/v1/answer", [{**ASKED, "id": 7}, {**ASKED, "question": " ", "id": "b"}, ASKED])
    [best] = library(windower, SpanRules(), 1)
    assert got.json == [
        {"id": 7, **best},
        {"id": "b", "error": "the question is empty: it has no words (' ')"},
        best,
    ]


@pytest.mark.parametrize("path", ["/", "/models/fake"])
@pytest.mark.parametrize(
    ("parameters", "rules"),
    [
        (None, PipelineRules()),
        ({"top_k": 3, "max_answer_len": None}, PipelineRules(top_k=3)),
        ({"max_answer_len": 2**63}, PipelineRules(max_answer_len=1000)),
        ({"handle_impossible_answer": True}, PipelineRules(handle_impossible_answer=True)),
        ({"top_k": 2, "align_to_words": False, "max_answer_len": 2}, PipelineRules(2, 2, False, False)),
    ],
)
def test_the_inference_api_gets_what_the_pipeline_gave(
    serve: Callable[..., Running], windower: Windower, path: str, parameters: Any, rules: PipelineRules
) -> None:
    body = {"inputs": ASKED, "parameters": parameters, "options": {"wait_for_model": True}}
    best = library(windower, rules, rules.top_k)
    assert serve()("POST", path, body).json == (best[0] if rules.top_k == 1 else best)


LONG = "y" * 500
BAD: list[tuple[object, int, str]] = [
    (b"", 400, "the body is not JSON: Expecting value"),
    (b'{"question": NaN}', 400, "the number NaN is none"),
    (b'{"question": 1e999}', 400, "is too large"),
    (b'{"question": "a", "question": "b"}', 400, "is there twice"),
    (b'{"question": "\\ud800", "context": "a"}', 400, "its text is not valid Unicode"),
    (b'{"question": "\xff", "context": "a"}', 400, "its text is not valid Unicode"),
    (b"[" * 100_000, 400, "the body is not JSON"),
    (b'{"question": "a", "context": "b", "n_best": ' + b"9" * 5000 + b"}", 400, "the body is not JSON"),
    (None, 400, "the body is not JSON"),
    ([], 422, f"1 to {MOST_QUESTIONS} questions, this one has 0"),
    ([ASKED] * (MOST_QUESTIONS + 1), 422, f"this one has {MOST_QUESTIONS + 1}"),
    (3, 422, "the request must be a JSON object, it is 3"),
    ([ASKED, LONG], 422, "[1] must be a JSON object"),
    ({"question": "a"}, 422, "`context`"),
    ([ASKED, {**ASKED, "context": 5}], 422, "[1]: "),
    ({**ASKED, LONG: 1}, 422, "is unknown; known: question, context"),
    ({**ASKED, "question": "y " * 300}, 422, "the question has 300 tokens"),
    ({**ASKED, "context": "\n"}, 422, "the context is empty"),
    ({**ASKED, "n_best": 0}, 422, "`n_best` must be 1 to 100, it is 0"),
    ({**ASKED, "n_best": True}, 422, "`n_best`"),
    ({**ASKED, "n_best": 10**30}, 422, "n_best"),
    ({**ASKED, "max_answer_tokens": 0}, 422, "max_answer_tokens"),
    ({**ASKED, "null_threshold": int("9" * 400)}, 422, "`null_threshold`"),
    ({**ASKED, "compat": LONG}, 422, "`compat` must be transformers"),
    ({**ASKED, "compat": "transformers", "null_threshold": 0}, 422, "does not go with `compat`"),
    ({**ASKED, "id": {"a": 1}}, 422, "`id`"),
]


@pytest.mark.parametrize(("body", "status", "told"), BAD)
def test_what_cannot_be_answered_is_told_in_one_line(one_server: Running, body: object, status: int, told: str) -> None:
    got = one_server("POST", "/v1/answer", body)
    assert (got.status, list(got.json)) == (status, ["error"])
    assert told in got.json["error"]
    assert "y" * 61 not in got.json["error"]
    assert "\n" not in got.json["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (ASKED, "'question' is unknown; known: inputs, parameters, options"),
        ({}, "inputs must be a JSON object"),
        ({"inputs": {"question": "a"}}, "inputs: "),
        ({"inputs": ASKED, "parameters": {"doc_stride": 3}}, "parameters.'doc_stride' is unknown"),
        ({"inputs": ASKED, "parameters": {"top_k": 101}}, "`parameters.top_k` must be 1 to 100"),
        ({"inputs": ASKED, "parameters": {"top_k": -1}}, "top_k"),
        ({"inputs": ASKED, "parameters": [1]}, "parameters must be a JSON object"),
        ({"inputs": ASKED, "parameters": 0}, "parameters must be a JSON object"),
        ({"inputs": ASKED, "options": []}, "options must be a JSON object"),
    ],
)
def test_what_the_inference_api_cannot_take_is_told(one_server: Running, body: object, told: str) -> None:
    got = one_server("POST", "/", body)
    assert got.status == 422
    assert told in got.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/answer", 405),
        ("PUT", "/", 405),
        ("POST", "/healthz", 405),
        ("GET", "/nothing", 404),
        ("POST", "/v1/answer/", 404),
        ("POST", "/models/other", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v1/model", 200),
        ("GET", "/openapi.json", 200),
    ],
)
def test_every_path_has_its_status_and_json(one_server: Running, method: str, path: str, status: int) -> None:
    got = one_server(method, path, {"inputs": ASKED} if method == "POST" else None)
    assert got.status == status
    assert isinstance(got.json, dict)
    assert ("error" in got.json) == (status != 200)


def test_a_body_that_is_too_large_is_refused_and_the_server_goes_on(one_server: Running) -> None:
    for size in (MOST_BYTES + 1, 10 << 20):
        got = one_server("POST", "/v1/answer", b" " * size)
        assert (got.status, got.json) == (413, {"error": "a body has at most 2,097,152 bytes"})
    assert one_server("POST", "/v1/answer", ASKED).status == 200


def test_a_request_keeps_its_id_where_that_is_one(one_server: Running) -> None:
    assert one_server("GET", "/healthz", headers={"X-Request-Id": "a-1"}).headers["x-request-id"] == "a-1"
    made = one_server("GET", "/healthz", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 16


def test_tokens_are_asked_for_everywhere_but_for_probes(serve: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{'a' * 32}\n\n{'b' * 32}\n")
    one = serve(bearers=Bearers.read(file))
    for path in ("/v1/model", "/metrics", "/openapi.json", "/nothing"):
        refused = one("GET", path)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "x-request-id" in refused.headers
    for wrong in ("a" * 32, f"Basic {'a' * 32}", f"Bearer {'a' * 31}", "Bearer", "Bearer é"):
        assert one("POST", "/v1/answer", ASKED, {"Authorization": wrong}).status == 401
    for right in (f"Bearer {'a' * 32}", f"bearer  {'b' * 32}"):
        assert one("POST", "/v1/answer", ASKED, {"Authorization": right}).status == 200
    assert one("GET", "/healthz").status == one("GET", "/readyz").status == 200


def test_a_full_queue_is_429_with_when_to_come_again(serve: Callable[..., Running], held: Held) -> None:
    one = serve(held.session, most_tokens=60)
    answers: list[int] = []
    threads = [ask_beside(one, answers)]
    assert held.reached.wait(WAIT_S)
    threads.append(ask_beside(one, answers))
    one.wait(lambda service: service.model.batcher.questions == 2)
    got = one("POST", "/v1/answer", [ASKED] * 3)
    assert got.status == 429
    assert 1 <= int(got.headers["retry-after"]) <= 60
    held.go.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert answers == [200, 200]


def ask_beside(one: Running, answers: list[int], **more: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(one("POST", "/v1/answer", {**ASKED, **more}).status))
    thread.start()
    return thread


def test_what_is_not_there_in_time_is_504_and_not_computed(serve: Callable[..., Running], held: Held) -> None:
    one = serve(held.session, timeout_s=0.3)
    answers: list[int] = []
    first = ask_beside(one, answers)
    assert held.reached.wait(WAIT_S)
    assert one("POST", "/v1/answer", ASKED).status == 504
    first.join(WAIT_S)
    assert answers == [504]
    one.wait(lambda service: service.model.batcher.questions == 0)  # cancelled by the event loop in its next turn
    before = held.windows
    held.go.set()
    assert one("POST", "/v1/answer", {**ASKED, "context": "Anna."}).status == 200
    assert held.windows == before + 1


def test_who_hangs_up_leaves_the_queue(serve: Callable[..., Running], held: Held) -> None:
    one = serve(held.session)
    answers: list[int] = []
    first = ask_beside(one, answers)
    assert held.reached.wait(WAIT_S)
    gone = one.connect()
    gone.request("POST", "/v1/answer", json.dumps(ASKED))
    one.wait(lambda service: service.model.batcher.questions == 2)
    gone.close()
    one.wait(lambda service: service.model.batcher.questions == 1)
    computed = held.windows
    held.go.set()
    first.join(WAIT_S)
    assert (answers, held.windows) == ([200], computed)


def test_a_body_that_never_comes_is_408(serve: Callable[..., Running]) -> None:
    one = serve(timeout_s=0.2)
    with socket.create_connection(("127.0.0.1", one.port), timeout=WAIT_S) as raw:
        raw.sendall(b"POST /v1/answer HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_model_that_fails_is_500_without_its_reasons(
    serve: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Batch) -> Logits:
        if batch.windows:
            raise BackendError("/secret/place is broken")
        return made_up_logits(batch)

    one = serve(FakeSession(fail))
    with caplog.at_level(logging.ERROR, "densepack"):
        got = one("POST", "/v1/answer", ASKED, {"X-Request-Id": "abc"})
    assert got.status == 500
    assert got.json == {"error": "the server failed on this request: its log says why under abc"}
    assert "request abc failed: BackendError: /secret/place is broken" in caplog.text


def test_before_it_is_ready_and_while_it_ends_it_says_so(serve: Callable[..., Running], held: Held) -> None:
    warming = threading.Event()
    one = serve(FakeSession(lambda batch: (warming.wait(WAIT_S), made_up_logits(batch))[1]), ready=False)
    assert (one("GET", "/readyz").status, one("GET", "/healthz").status) == (503, 200)
    early = one("POST", "/v1/answer", ASKED)
    assert (early.status, early.headers["retry-after"]) == (503, "1")
    warming.set()
    one.wait(lambda service: service.ready)
    assert one("POST", "/v1/answer", ASKED).headers.get("connection") is None


def test_what_was_taken_is_answered_when_the_server_ends(
    serve: Callable[..., Running], held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GRACE_S", 0.5)
    one = serve(held.session)
    answers: list[int] = []
    threads = [ask_beside(one, answers) for _ in range(8)]
    one.wait(lambda service: service.model.batcher.questions == 8)
    one.service.ending = True
    last = one("GET", "/readyz")
    assert (last.status, last.headers["connection"]) == (503, "close")
    threads.append(ask_beside(one, answers))  # it is still taken
    one.wait(lambda service: service.model.batcher.questions == 9)
    held.go.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert answers == [200] * 9
    one.wait(lambda _: refused(one))


def refused(one: Running) -> bool:
    with suppress(ConnectionResetError):
        try:
            one("GET", "/healthz")
        except ConnectionRefusedError:
            return True
    return False


def test_metrics_count_what_happened(serve: Callable[..., Running]) -> None:
    one = serve()
    one("POST", "/v1/answer", [ASKED, ASKED])
    one("POST", "/v1/answer", b"x")
    one("GET", "/nothing/at/all")
    lines = one("GET", "/metrics").body.decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert found['densepack_requests_total{endpoint="answer",status="200"}'] == "1.0"
    assert found['densepack_requests_total{endpoint="answer",status="400"}'] == "1.0"
    assert found['densepack_requests_total{endpoint="none",status="404"}'] == "1.0"
    for step in ("tokenise", "queue", "model", "rank"):
        assert found[f'densepack_step_seconds_count{{step="{step}"}}'] == "2.0"
    windows = float(found["densepack_batch_rows_sum"])
    assert windows >= 2
    assert float(found["densepack_tokens_total"]) > windows
    assert found["densepack_padding_tokens_total"] == "0.0"
    assert found["densepack_queue_tokens"] == found["densepack_queue_questions"] == "0.0"


def test_the_openapi_document_names_every_route_and_reference(one_server: Running) -> None:
    document = one_server("GET", "/openapi.json").json
    assert document == openapi("fake", secured=False)
    for path, methods in document["paths"].items():
        for method in methods.keys() & {"get", "post"}:
            got = one_server(method.upper(), path.replace("{name}", "fake"), b"x" if method == "post" else None)
            assert str(got.status) in methods[method]["responses"]
    text = json.dumps(openapi("fake", secured=True))
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
