"""The server's OpenAPI document, written by hand: what the endpoints take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densepack_runtime.host.versions import package_versions
from densepack_runtime.serving.inference_protocol import INPUTS, MODEL_NAME, MODEL_VERSION, OUTPUTS
from densepack_runtime.serving.requests import MOST_ANSWERS, MOST_QUESTIONS

_TEXT = {"type": "string", "description": "One without words cannot be used."}
_OFFSET = {"type": "integer", "minimum": 0, "description": "In characters of the context."}
_COUNT = {"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS}
_ANSWER = {
    "score": {"type": "number", "minimum": 0},
    "start": _OFFSET,
    "end": _OFFSET,
    "answer": {"type": "string", "description": "Empty where there is no answer."},
}
_ID = {"type": ["string", "integer", "null"], "description": "Given back."}
_COUNT_V2 = {"type": "integer", "minimum": 1, "maximum": MOST_QUESTIONS}
_ERRORS = {
    "400": "The body is not JSON.",
    "401": "A bearer token is needed.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "422": "A field or a text cannot be used.",
    "429": "The queue is full; Retry-After says for how long.",
    "500": "The server failed.",
    "503": "The server starts or ends.",
    "504": "The answer was not there in time.",
}


def openapi(model: str, *, secured: bool, prefix: str = "") -> dict[str, Any]:
    """The document for a model of this name; `secured` where bearer tokens are needed, `prefix` where it is mounted."""
    told: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "densepack", "version": package_versions()["densepack"] or "0"},
        "servers": [{"url": prefix or "/"}],
        "paths": {**_PATHS, "/models/{name}": {**_PATHS["/models/{name}"], "parameters": [_path_name(model)]}},
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }
    if secured:
        told["security"] = [{"bearer": []}]
    return told


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None, **more: Any) -> dict[str, Any]:
    needed = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": needed, **more}


def _one_or_many(name: str, most: int | None = None) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{name}"}
    bounds = {} if most is None else {"minItems": 1, "maxItems": most}
    return {"oneOf": [reference, {"type": "array", "items": reference, **bounds}]}


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _asks(summary: str, body: dict[str, Any], answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                "200": _response("Answered.", answer),
                **{status: _response(text, error) for status, text in _ERRORS.items()},
            },
            **more,
        }
    }


def _path_name(model: str) -> dict[str, Any]:
    return {"name": "name", "in": "path", "required": True, "schema": {"enum": [model]}}


def _tensor(tensors: Mapping[str, str], data: dict[str, Any]) -> dict[str, Any]:
    return _object(
        {
            "name": {"enum": list(tensors)},
            "datatype": {"enum": list(dict.fromkeys(tensors.values()))},
            "shape": {
                "type": "array",
                "items": _COUNT_V2,
                "minItems": 1,
                "maxItems": 2,
                "description": "[N] or [N, 1]",
            },
            "data": {"type": "array", "items": data},
            "parameters": {"type": "object"},
        },
        ("name", "datatype", "shape"),
    )


def _tells(summary: str, schema: dict[str, Any], *, opens: bool = False, **more: Any) -> dict[str, Any]:
    responses = {"200": _response(summary, schema), **more}
    return {"get": {"summary": summary, "responses": responses, **({"security": []} if opens else {})}}


_SCHEMAS = {
    "Question": _object(
        {
            "question": _TEXT,
            "context": _TEXT,
            "id": _ID,
            "n_best": {**_COUNT, "default": 1},
            "null_threshold": {"type": ["number", "null"], "description": "Allows no answer (SQuAD 2)."},
            "max_answer_tokens": {"type": ["integer", "null"], "minimum": 1},
            "compat": {"enum": ["transformers", None], "description": "Answers as the pipeline of transformers 4."},
        },
        ("question", "context"),
        additionalProperties=False,
    ),
    "Answer": _object(_ANSWER),
    "Answered": _object(
        {**_ANSWER, "id": _ID, "answers": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}},
        tuple(_ANSWER),
    ),
    "Refused": _object({"error": {"type": "string"}, "id": _ID}, ("error",)),
    "Pipeline": _object(
        {
            "inputs": _object({"question": _TEXT, "context": _TEXT}, additionalProperties=False),
            "parameters": _object(
                {
                    "top_k": {**_COUNT, "type": ["integer", "null"], "default": 1},
                    "max_answer_len": {"type": ["integer", "null"], "minimum": 1, "default": 15},
                    "handle_impossible_answer": {"type": ["boolean", "null"], "default": False},
                    "align_to_words": {"type": ["boolean", "null"], "default": True},
                },
                (),
                type=["object", "null"],
                additionalProperties=False,
            ),
            "options": {"type": ["object", "null"], "description": "Ignored."},
        },
        ("inputs",),
        additionalProperties=False,
    ),
    "Inference": _object(
        {
            "inputs": {"type": "array", "minItems": len(INPUTS), "maxItems": len(INPUTS), "items": _tensor(INPUTS, {})},
            "outputs": {
                "type": "array",
                "items": _object({"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}}, ("name",)),
            },
            "id": {"type": ["string", "null"], "description": "Given back."},
            "parameters": _object(
                {
                    "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds."},
                    "binary_data_output": {"type": "boolean"},
                },
                (),
            ),
        },
        ("inputs",),
        additionalProperties=False,
    ),
    "Inferred": _object(
        {
            "model_name": {"const": MODEL_NAME},
            "model_version": {"const": MODEL_VERSION},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _tensor(OUTPUTS, {"type": ["string", "number"]})},
        },
        ("model_name", "model_version", "outputs"),
    ),
    "Error": _object({"error": {"type": "string"}}),
}
_PIPELINE = ({"$ref": "#/components/schemas/Pipeline"}, _one_or_many("Answer"))
_RELOADED = ("name", "sha256", "backend", "precision")
_READY = _object({"ready": {"type": "boolean"}})
_NOT_READY: dict[str, Any] = {"503": _response("It starts or ends.", _READY)}
_PATHS: dict[str, Any] = {
    "/v1/answer": _asks(
        "Answer one question, or a list of them; one of a list that cannot be answered has an error in its place",
        _one_or_many("Question", MOST_QUESTIONS),
        {
            "oneOf": [
                {"$ref": "#/components/schemas/Answered"},
                {
                    "type": "array",
                    "items": {
                        "oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Answered", "Refused")],
                    },
                },
            ]
        },
    ),
    "/": _asks("Answer as the Hugging Face inference API did", *_PIPELINE),
    "/models/{name}": _asks("The same, by the name of the model", *_PIPELINE),
    "/healthz": _tells("The process lives.", _object({"alive": {"const": True}}), opens=True),
    "/readyz": _tells("It answers.", _READY, opens=True, **_NOT_READY),
    "/v1/model": _tells("What is served, and how.", {"type": "object"}),
    "/v1/reload": {
        "post": {
            "summary": "Serve the bundle that is now where the server was started; only with a token of its own",
            "security": [{"bearer": []}],
            "responses": {
                "200": _response("It is served.", _object({name: {"type": "string"} for name in _RELOADED})),
                **{
                    status: _response(text, {"$ref": "#/components/schemas/Error"})
                    for status, text in (
                        ("401", _ERRORS["401"]),
                        ("404", "The server has no such tokens."),
                        ("409", "The old bundle is served on; the error says why."),
                        ("422", "A body was sent."),
                        ("503", _ERRORS["503"]),
                    )
                },
            },
        }
    },
    "/metrics": {
        "get": {
            "summary": "Counters for Prometheus.",
            "responses": {"200": {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        }
    },
    "/openapi.json": _tells("This document.", {"type": "object"}),
}
_PATHS["/models/{name}"]["post"]["responses"]["404"] = _response(
    "It has another model.", {"$ref": "#/components/schemas/Error"}
)
_PATHS["/"]["get"] = {
    "summary": "A page to ask from.",
    "security": [],
    "responses": {"200": {"description": "HTML.", "content": {"text/html": {"schema": {"type": "string"}}}}},
}
_PATHS |= {
    "/v2": _tells("The Open Inference Protocol: the server.", {"type": "object"}),
    "/v2/health/live": _PATHS["/healthz"],
    "/v2/health/ready": _PATHS["/readyz"],
}
for _model in (f"/v2/models/{MODEL_NAME}", f"/v2/models/{MODEL_NAME}/versions/{MODEL_VERSION}"):
    _PATHS |= {
        _model: _tells("The names, types and shapes of the model's tensors.", {"type": "object"}),
        f"{_model}/ready": _tells("It answers.", _READY, opens=False, **_NOT_READY),
        f"{_model}/infer": _asks(
            "Answer questions, all of them or none",
            {"$ref": "#/components/schemas/Inference"},
            {"$ref": "#/components/schemas/Inferred"},
        ),
    }
