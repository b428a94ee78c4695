"""The Open Inference Protocol, version 2, as KServe's and Triton's clients speak it over HTTP.

    asked = parse_inference(b'{"inputs": [{"name": "question", "shape": [1], …}, …]}', json_bytes=None)
    body, headers = asked.told([answer])

Names and types are those of the model that `densepack triton` writes, so that one client asks both: `question` and
`context` (BYTES, [N] or [N, 1]) in; `answer` (BYTES), `start` and `end` (INT32), `score` (FP64) of the same shape out.
A tensor's data stand in the JSON, or behind it as Triton's binary extension has them: numbers little-endian, a text as
its number of bytes (uint32) and its bytes in UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densepack_runtime.errors import InputError
from densepack_runtime.host.records import Document
from densepack_runtime.host.strict_json import parse_json
from densepack_runtime.host.versions import package_versions
from densepack_runtime.question_answering.answers import Answer, SpanRules
from densepack_runtime.question_answering.pairs import Pair, shown
from densepack_runtime.serving.batcher import Asked
from densepack_runtime.serving.requests import MOST_QUESTIONS
from densepack_runtime.serving.responses import json_bytes

MODEL_NAME, MODEL_VERSION = "question_answering", "1"
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
INPUTS = {"question": "BYTES", "context": "BYTES"}
OUTPUTS = {"answer": "BYTES", "start": "INT32", "end": "INT32", "score": "FP64"}
_ON_THE_WIRE = {"INT32": "<i4", "FP64": "<f8"}
_REQUEST = Document("the request", InputError, "/openapi.json has its fields")


def server_metadata() -> dict[str, Any]:
    return {"name": "densepack", "version": package_versions()["densepack"], "extensions": ["binary_tensor_data"]}


def model_metadata() -> dict[str, Any]:
    told = {
        place: [{"name": name, "datatype": datatype, "shape": [-1, 1]} for name, datatype in tensors.items()]
        for place, tensors in (("inputs", INPUTS), ("outputs", OUTPUTS))
    }
    return {"name": MODEL_NAME, "versions": [MODEL_VERSION], "platform": "densepack", **told}


@dataclass(frozen=True, slots=True)
class _Input:
    """A tensor that was sent. Parameters that other servers know, here and below, change nothing."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Output:
    """A tensor that is wanted."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Request:
    """The JSON of a request."""

    inputs: tuple[_Input, ...]
    outputs: tuple[_Output, ...] = ()
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[str, bool]:
        """The outputs to send in their order, and which of them in binary."""
        binary = _flag(self.parameters, "binary_data_output")
        chosen = {output.name: _flag(output.parameters, "binary_data", binary) for output in self.outputs}
        for name in chosen:
            if name not in OUTPUTS:
                raise InputError(f"the output {shown(name)} is unknown; known: {', '.join(OUTPUTS)}")
        return chosen or dict.fromkeys(OUTPUTS, binary)


@dataclass(frozen=True, slots=True)
class Inference:
    """What one request asks. `timeout_s` is how long its client means to wait, None where it does not say."""

    pairs: list[Pair]
    shape: tuple[int, ...]
    wanted: dict[str, bool]
    id: str | None
    timeout_s: float | None

    def asked(self, rules: SpanRules) -> list[Asked]:
        return [Asked(question, context, rules.for_best(1)) for question, context in self.pairs]

    def told(self, answers: Sequence[Answer]) -> tuple[bytes, dict[str, str]]:
        """The body of the response and the headers that go with it."""
        columns = {name: [getattr(answer, _ATTRIBUTES.get(name, name)) for answer in answers] for name in self.wanted}
        head = {} if self.id is None else {"id": self.id}
        blobs = {name: _bytes_of(OUTPUTS[name], columns[name]) for name, binary in self.wanted.items() if binary}
        outputs = [
            {
                "name": name,
                "datatype": OUTPUTS[name],
                "shape": self.shape,
                **({"parameters": {"binary_data_size": len(blobs[name])}} if binary else {"data": columns[name]}),
            }
            for name, binary in self.wanted.items()
        ]
        body = json_bytes({"model_name": MODEL_NAME, "model_version": MODEL_VERSION, **head, "outputs": outputs})
        if not blobs:
            return body, {"Content-Type": "application/json"}
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(body))}
        return b"".join([body, *blobs.values()]), headers


_ATTRIBUTES = {"answer": "text"}


def parse_inference(body: bytes, json_length: str | None) -> Inference:
    """What a body asks, of which the header says how long its JSON is where more follows.

    Raises ValueError where that is not JSON, InputError for anything else.
    """
    length = _json_length(json_length, len(body))
    request = _REQUEST.record(parse_json(body[:length]), _Request)
    texts, shape = _inputs(request, memoryview(body)[length:])
    return Inference(
        pairs=list(zip(texts["question"], texts["context"], strict=True)),
        shape=shape,
        wanted=request.wanted,
        id=request.id,
        timeout_s=_timeout_s(request.parameters.get("timeout")),
    )


def _json_length(told: str | None, length: int) -> int:
    if told is None:
        return length
    if not (told.isascii() and told.isdigit() and len(told) < 10 and int(told) <= length):
        raise InputError(f"{JSON_LENGTH_HEADER} must be a number of bytes of this body's {length}, it is {shown(told)}")
    return int(told)


def _timeout_s(microseconds: object) -> float | None:
    if microseconds is None:
        return None
    if type(microseconds) is not int or not 0 <= microseconds < 1 << 63:
        raise InputError(f"`parameters.timeout` must be microseconds, it is {shown(microseconds)}")
    return microseconds / 1e6 or None  # 0 is the default of clients


def _flag(parameters: dict[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InputError(f"`{name}` must be true or false, it is {shown(value)}")
    return value


def _inputs(request: _Request, rest: memoryview) -> tuple[dict[str, list[str]], tuple[int, ...]]:
    """The texts of each input, and the shape that both have; what stands behind the JSON is theirs in order."""
    names = [tensor.name for tensor in request.inputs]
    if sorted(names) != sorted(INPUTS):
        raise InputError(f"the inputs must be {' and '.join(INPUTS)}, once each, they are {shown(names)}")
    texts = {}
    for tensor in request.inputs:
        texts[tensor.name], rest = _texts_of(tensor, rest)
    if rest:
        raise InputError(f"{len(rest)} bytes follow the last input")
    shapes = {tensor.shape for tensor in request.inputs}
    if len(shapes) > 1:
        raise InputError(f"question and context must have one shape, they have {shown(sorted(shapes))}")
    return texts, shapes.pop()


def _texts_of(tensor: _Input, rest: memoryview) -> tuple[list[str], memoryview]:
    """The texts of one tensor, and what of the bytes behind the JSON is left for the others."""
    if tensor.datatype != "BYTES":
        raise InputError(f"the input {tensor.name} must be BYTES, it is {shown(tensor.datatype)}")
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
        raise InputError(f"the input {tensor.name} must have the shape [N] or [N, 1], it has {shown([*tensor.shape])}")
    if not 1 <= tensor.shape[0] <= MOST_QUESTIONS:
        raise InputError(f"a request has 1 to {MOST_QUESTIONS} questions, this one has {shown(tensor.shape[0])}")
    if tensor.data is not None:
        texts = list(_flat(tensor.data))
    else:
        size = tensor.parameters.get("binary_data_size")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InputError(f"the input {tensor.name} has neither `data` nor a `binary_data_size` that is there")
        texts, rest = list(_unpacked(tensor.name, rest[:size])), rest[size:]
    if len(texts) != tensor.shape[0] or not all(isinstance(text, str) for text in texts):
        raise InputError(f"the input {tensor.name} must hold {tensor.shape[0]} texts, as its shape says")
    return texts, rest


def _flat(data: Sequence[Any]) -> Iterator[Any]:
    """The elements of data that are nested as their shape says, or not at all."""
    for element in data:
        if isinstance(element, list):
            yield from element
        else:
            yield element


def _unpacked(name: str, data: memoryview) -> Iterator[str]:
    """The texts that a BYTES tensor has in binary."""
    place = 0
    while place < len(data):
        start = place + 4
        place = start + int.from_bytes(data[place:start], "little")
        if start > len(data) or place > len(data):
            raise InputError(f"the input {name} ends within a text")
        try:
            yield str(data[start:place], "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"the input {name} must be UTF-8: {error.reason} at byte {error.start}") from error


def _bytes_of(datatype: str, column: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text for text in (value.encode() for value in column))
    return np.array(column, _ON_THE_WIRE[datatype]).tobytes()
