"""The Open Inference Protocol: the library's answers in both ways of sending them, errors in the protocol's form."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fake_session import FakeSession
from tests.conftest import REPOSITORY
from tests.runtime.serving.running import Got, Running

PAIRS = [
    ("Who built the bridge?", "The bridge was built by Anna Berg in 1901."),
    ("Which harbour?", "The über-old harbour 🙂 of the north."),
]
MODEL = "/v2/models/question_answering"
INFER = f"{MODEL}/infer"
VARIABLE = "DENSEPACK_TRITON"


def tensors(pairs: list[tuple[str, str]] = PAIRS, *, nested: bool = False) -> list[dict[str, Any]]:
    """Both inputs, flat with the shape [N], or nested with [N, 1]."""
    return [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(pairs), 1] if nested else [len(pairs)],
            "data": [[pair[place]] if nested else pair[place] for pair in pairs],
        }
        for place, name in enumerate(("question", "context"))
    ]


def binary(head: dict[str, Any], pairs: list[tuple[str, str]] = PAIRS) -> tuple[bytes, dict[str, str]]:
    """A body with its texts behind the JSON, and the header that says where they begin."""
    blobs = [
        b"".join(struct.pack("<I", len(pair[place].encode())) + pair[place].encode() for pair in pairs)
        for place in (0, 1)
    ]
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [len(pairs), 1], "parameters": {"binary_data_size": len(blob)}}
        for name, blob in zip(("question", "context"), blobs, strict=True)
    ]
    body = json.dumps({**head, "inputs": inputs}).encode()
    return b"".join([body, *blobs]), {"Inference-Header-Content-Length": str(len(body))}


@pytest.fixture(scope="module")
def library(windower: Windower) -> list[Answer]:
    return list(QuestionAnswerer(FakeSession(), windower).answer_many(PAIRS))


def columns(got: Got) -> dict[str, list[Any]]:
    """Every output of a response, out of its JSON or from behind it."""
    length = int(got.headers.get("inference-header-content-length", len(got.body)))
    head, rest, found = json.loads(got.body[:length]), got.body[length:], {}
    for output in head["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        blob, rest = rest[:size], rest[size:]
        if output["datatype"] == "BYTES":
            texts: list[Any] = []
            while blob:
                end = 4 + struct.unpack("<I", blob[:4])[0]
                texts.append(blob[4:end].decode())
                blob = blob[end:]
            found[output["name"]] = texts
        else:
            found[output["name"]] = np.frombuffer(blob, {"INT32": "<i4", "FP64": "<f8"}[output["datatype"]]).tolist()
    assert rest == b""
    return found


def wanted(library: list[Answer]) -> dict[str, list[Any]]:
    return {
        "answer": [one.text for one in library],
        "start": [one.start for one in library],
        "end": [one.end for one in library],
        "score": [one.score for one in library],
    }


@pytest.mark.parametrize("path", [INFER, f"{MODEL}/versions/1/infer"])
@pytest.mark.parametrize("nested", [False, True])
def test_json_gets_the_librarys_answers_in_the_shape_that_was_sent(
    one_server: Running, library: list[Answer], path: str, nested: bool
) -> None:
    got = one_server("POST", path, {"id": "a7", "inputs": tensors(nested=nested)})
    assert got.status == 200
    head = {name: value for name, value in got.json.items() if name != "outputs"}
    assert head == {"model_name": "question_answering", "model_version": "1", "id": "a7"}
    assert columns(got) == wanted(library)
    assert [(one["datatype"], one["shape"]) for one in got.json["outputs"]] == [
        (datatype, [2, 1] if nested else [2]) for datatype in ("BYTES", "INT32", "INT32", "FP64")
    ]
    assert "model;dur=" in got.headers["server-timing"]


def test_binary_in_and_out_as_tritons_client_sends_it(one_server: Running, library: list[Answer]) -> None:
    got = one_server("POST", INFER, *binary({"parameters": {"binary_data_output": True}}))
    assert got.headers["content-type"] == "application/octet-stream"
    assert columns(got) == wanted(library)


def test_only_what_is_wanted_comes_each_in_its_way(one_server: Running, library: list[Answer]) -> None:
    chosen = [{"name": "score", "parameters": {"binary_data": True}}, {"name": "answer"}]
    got = one_server("POST", INFER, {"inputs": tensors(), "outputs": chosen})
    assert columns(got) == {name: wanted(library)[name] for name in ("score", "answer")}


def test_metadata_is_that_of_the_model_that_triton_serves(one_server: Running) -> None:
    from densepack_export.triton.repository import TritonOptions

    assert one_server("GET", "/v2").json["extensions"] == ["binary_tensor_data"]
    told = one_server("GET", MODEL).json
    assert one_server("GET", f"{MODEL}/versions/1").json == told
    assert (told["name"], told["versions"]) == (TritonOptions().name, ["1"])
    sides = {name: [(one["name"], one["datatype"]) for one in told[name]] for name in ("inputs", "outputs")}
    assert sides == {
        "inputs": [("question", "BYTES"), ("context", "BYTES")],
        "outputs": [("answer", "BYTES"), ("start", "INT32"), ("end", "INT32"), ("score", "FP64")],
    }
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        assert one_server("GET", path).status == 200
    assert one_server("GET", INFER).status == 405


@pytest.mark.parametrize("path", ["/v2/models/other", f"{MODEL}/versions/2", "/v2/models/other/ready"])
def test_another_model_is_404_and_names_this_one(one_server: Running, path: str) -> None:
    got = one_server("GET", path)
    assert (got.status, got.json) == (404, {"error": "this server has the model question_answering, version 1"})


QUESTION, CONTEXT = tensors()
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "inputs"),
    ({"inputs": []}, "must be question and context, once each"),
    ({"inputs": [QUESTION, QUESTION]}, "must be question and context, once each"),
    ({"inputs": [{**QUESTION, "datatype": "INT32"}, CONTEXT]}, "question must be BYTES, it is 'INT32'"),
    ({"inputs": [{**QUESTION, "shape": [2, 2]}, CONTEXT]}, "shape [N] or [N, 1], it has [2, 2]"),
    ({"inputs": [{**QUESTION, "shape": []}, CONTEXT]}, "shape [N] or [N, 1]"),
    ({"inputs": [{**QUESTION, "shape": [0], "data": []}, CONTEXT]}, "1 to 64 questions, this one has 0"),
    ({"inputs": [{**QUESTION, "shape": [65]}, CONTEXT]}, "1 to 64 questions, this one has 65"),
    ({"inputs": [{**QUESTION, "shape": [3]}, CONTEXT]}, "question must hold 3 texts"),
    ({"inputs": [{**QUESTION, "data": ["a", 5]}, CONTEXT]}, "question must hold 2 texts"),
    ({"inputs": [{**QUESTION, "data": ["a", [["b"]]]}, CONTEXT]}, "question must hold 2 texts"),
    ({"inputs": [{**QUESTION, "shape": [2, 1]}, CONTEXT]}, "must have one shape"),
    ({"inputs": [{**QUESTION, "data": None}, CONTEXT]}, "neither `data` nor a `binary_data_size`"),
    ({"inputs": [QUESTION, CONTEXT], "outputs": [{"name": "logits"}]}, "the output 'logits' is unknown; known: answer"),
    ({"inputs": [QUESTION, CONTEXT], "parameters": {"timeout": "x"}}, "`parameters.timeout` must be microseconds"),
    ({"inputs": [QUESTION, CONTEXT], "parameters": {"binary_data_output": 1}}, "must be true or false, it is 1"),
    ({"inputs": [QUESTION, CONTEXT], "more": 1}, "unknown: `more`"),
    ({"inputs": tensors([PAIRS[0], (" ", "b")])}, "question 2 of 2: the question is empty"),
    ({"inputs": tensors([(" ", "b")])}, "the question is empty"),
]


@pytest.mark.parametrize(("body", "told"), BAD)
def test_what_cannot_be_answered_is_told_in_the_protocols_form(
    one_server: Running, body: dict[str, Any], told: str
) -> None:
    got = one_server("POST", INFER, body)
    assert (got.status, list(got.json)) == (422, ["error"])
    assert told in got.json["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999999999", "٣", "1e3"])
def test_a_length_of_the_json_that_is_none_is_refused(one_server: Running, length: str) -> None:
    body, _ = binary({})
    got = one_server("POST", INFER, body, {"Inference-Header-Content-Length": length.encode().decode("latin-1")})
    assert got.status == 422
    assert "must be a number of bytes" in got.json["error"]


def test_binary_texts_that_are_cut_too_many_or_not_utf8_are_refused(one_server: Running) -> None:
    body, headers = binary({})
    for changed, told in (
        (body[:-1], "the input context has neither"),
        (body + b"x", "1 bytes follow the last input"),
        (
            body.replace(struct.pack("<I", len(PAIRS[0][0])), b"\xff\xff\xff\x7f"),
            "the input question ends within a text",
        ),
        (body.replace("über".encode(), b"\xff" * 5), "the input context must be UTF-8"),
    ):
        got = one_server("POST", INFER, changed, headers)
        assert got.status == 422
        assert told in got.json["error"]


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no environment with tritonclient")
def test_the_client_of_the_document_about_triton_gets_the_librarys_answers(
    one_server: Running, library: list[Answer]
) -> None:
    script = REPOSITORY / "tests" / "export" / "triton" / "ask_with_the_docs.py"
    done = subprocess.run(
        [
            Path(os.environ[VARIABLE]) / "bin" / "python",
            script,
            REPOSITORY / "docs" / "triton.md",
            "http",
            f"127.0.0.1:{one_server.port}",
            "2",
        ],
        input=json.dumps([PAIRS, [PAIRS[0]], [["", "a"]]]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    both, one, bad = json.loads(done.stdout)
    assert both == [[found.text, found.start, found.end, found.score] for found in library]
    assert one == both[:1]
    assert "the question is empty" in bad
