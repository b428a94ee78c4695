"""Bodies, headers and paths as nobody means them: each gets a status that says so, in JSON, and no words or files.

The application is asked without a server; behind it is a session without a model.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.sessions.fake_session import FakeSession
from tests.faults.damage import hostile_json, odd_text
from tests.faults.kinds.hostile_texts import answerer, hostile_text
from tests.faults.kinds.kind import TRACEBACK, WRONG, kind
from tests.runtime.serving.asking import ask
from tests.runtime.serving.running import Got, model_of

INFER = "/v2/models/question_answering/infer"
PATHS = ("/v1/answer", "/", "/models/fake", INFER)
ODD_PATHS = (
    "/v2/models/%2e%2e/infer",
    "/models/../../etc/passwd",
    "/\x00",
    "/é",
    "//",
    "/v2/models/x/versions/9/infer",
)
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "X")
ODD_HEADERS = (
    *(
        b"",
        b"-1",
        b"0",
        b"1",
        b"7",
        b"1e3",
        b"\xff\xfe",
        b"9" * 400,
        b"a b",
        b"a\tb",
        b"<script>",
        b"x" * 65,
        b"\xd9\xa3",
    ),
)
# What is refused is not in the way of the next; what a server that is well never says is.
MAY_BE = {200, 400, 404, 405, 413, 422}
LONGEST_ERROR = 1000


@kind("http requests", tries=20_000, quick=200)
def http_requests(seed: int, _folder: Path) -> Iterator[str]:
    rng = random.Random(seed)
    with _application() as application, asyncio.Runner() as runner:
        while True:
            method, path, body, headers = _request(rng)
            cuts = [rng.randrange(len(body) + 1) for _ in range(rng.choice((0, 0, 1, 3)))]
            try:
                got = runner.run(ask(application, method, path, body, headers, cuts))
            except BaseException as error:  # noqa: BLE001  what the kind counts
                yield f"{TRACEBACK}: {error!r} at {method} {path} {body[:200]!r}"
            else:
                yield _ending(got, body)


@contextmanager
def _application() -> Iterator[ASGIApp]:
    model = model_of(FakeSession(), answerer().windower, metrics := Metrics())
    try:
        yield application_of(Service(model, metrics, warmed=True))
    finally:
        model.close()


def _request(rng: random.Random) -> tuple[str, str, bytes, dict[bytes, bytes]]:
    method = "POST" if rng.random() < 0.95 else rng.choice(METHODS)
    path = rng.choice(PATHS) if rng.random() < 0.97 else rng.choice(ODD_PATHS)
    document = _document(rng, path)
    luck = rng.random()
    if luck < 0.4:
        body = json.dumps(document).encode()
    elif luck < 0.75:
        body = json.dumps(hostile_json(rng, document)).encode()
    elif luck < 0.85:
        body = odd_text(rng, json.dumps(document if isinstance(document, dict) else {"a": document}))
    else:
        body = rng.randbytes(rng.choice((0, 1, 8, 300)))
    headers = {b"X-Request-Id": rng.choice(ODD_HEADERS)} if rng.random() < 0.3 else {}
    if path == INFER and rng.random() < 0.5:
        length = str(len(body)).encode()
        body += _packed(rng) + _packed(rng)
        headers[b"Inference-Header-Content-Length"] = length if rng.random() < 0.8 else rng.choice(ODD_HEADERS)
    return method, path, body, headers


def _document(rng: random.Random, path: str) -> Any:
    """A body that the path takes, but for its texts."""
    if path == INFER:
        count = rng.choice((1, 1, 2, 3))
        return {"inputs": [_tensor(rng, name, count) for name in ("question", "context")], "id": "x"}
    asked = {"question": hostile_text(rng), "context": hostile_text(rng)}
    if path == "/v1/answer":
        more = {"id": rng.choice((1, "a", None)), "n_best": rng.choice((1, 5, 100)), "max_answer_tokens": 7}
        one = {
            **asked,
            **(more if rng.random() < 0.5 else {}),
            **({"compat": "transformers"} if rng.random() < 0.2 else {}),
        }
        return [one, {**one, "question": hostile_text(rng)}] if rng.random() < 0.2 else one
    parameters = {"top_k": rng.choice((1, 3)), "align_to_words": rng.random() < 0.5, "max_answer_len": None}
    return {"inputs": asked, "parameters": parameters, "options": {}}


def _tensor(rng: random.Random, name: str, count: int) -> dict[str, Any]:
    told = {"name": name, "shape": [count, 1], "datatype": "BYTES"}
    if rng.random() < 0.3:
        return {**told, "parameters": {"binary_data_size": rng.choice((0, 4, 9, 24))}}
    return {**told, "data": [hostile_text(rng) for _ in range(count)]}


def _packed(rng: random.Random) -> bytes:
    """A text as a BYTES tensor has it, or nearly so."""
    text = rng.choice((b"Who?", b"Who built the bridge", b"\xff\xfe", b""))
    return struct.pack("<I", len(text) if rng.random() < 0.8 else rng.choice((0, 3, 2**31, 2**32 - 1))) + text


def _ending(got: Got, body: bytes) -> str:
    if got.status not in MAY_BE:
        return f"{WRONG}: {got.status} {got.body[:200]!r} at {body[:200]!r}"
    if not got.headers.get("x-request-id", "").isascii() or not 0 < len(got.headers["x-request-id"]) <= 64:
        return f"{WRONG}: the request id {got.headers.get('x-request-id')!r}"
    if got.status == 200:
        return "answered"
    if got.headers["content-type"] != "application/json" or list(got.json) != ["error"]:
        return f"{WRONG}: {got.status} {got.body[:200]!r}"
    told = got.json["error"]
    if "\n" in told or "Traceback" in told or ".py" in told or len(told) > LONGEST_ERROR:
        return f"{TRACEBACK}: {told[:300]}"
    return f"refused with {got.status}"
