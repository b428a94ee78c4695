"""What a body asks, in the two shapes that the server takes: its own, and that of the Hugging Face inference API.

    asked = parse_questions(b'{"question": "Who?", "context": "It was her."}', SpanRules(), PipelineRules())
    asked.questions[0].n_best                                # 1

A body is JSON as RFC 8259 says (ValueError), of known fields with the right types (InputError, which names the field).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from densepack_runtime.errors import InputError
from densepack_runtime.host.records import Document
from densepack_runtime.host.strict_json import parse_json
from densepack_runtime.question_answering.answers import Answer, Rules, SpanRules
from densepack_runtime.question_answering.pairs import shown
from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.serving.batcher import Asked

MOST_QUESTIONS = 64
MOST_ANSWERS = 100
_REQUEST = Document("the request", InputError, "/openapi.json has its fields")
Record = TypeVar("Record")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """One question of `POST /v1/answer`."""

    question: str
    context: str
    id: str | int | None = None
    n_best: int = 1
    null_threshold: float | None = None
    max_answer_tokens: int | None = None
    compat: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together. Raises InputError."""
        _refuse_count("n_best", self.n_best)
        if self.compat not in (None, "transformers"):
            raise InputError(f"`compat` must be transformers or left out, it is {shown(self.compat)}")
        if self.compat is not None and self.null_threshold is not None:
            raise InputError("`null_threshold` does not go with `compat`: the pipeline had none")

    def asked(self, rules: SpanRules, pipeline_rules: PipelineRules) -> Asked:
        """For the batcher; what is left open is as in the rules that go with it."""
        most = self.max_answer_tokens
        chosen: Rules[Any]
        if self.compat is not None:
            chosen = replace(pipeline_rules, max_answer_len=_given(most, pipeline_rules.max_answer_len))
        else:
            chosen = replace(
                rules,
                max_answer_tokens=_given(most, rules.max_answer_tokens),
                null_threshold=_given(self.null_threshold, rules.null_threshold),
            )
        return Asked(self.question, self.context, chosen.for_best(self.n_best), self.n_best)

    def told(self, answers: list[Answer]) -> dict[str, Any]:
        """What is sent back: the best answer, and all of them where more than one was asked for."""
        head = {} if self.id is None else {"id": self.id}
        rest = {"answers": [answer.as_dict() for answer in answers]} if self.n_best > 1 else {}
        return {**head, **answers[0].as_dict(), **rest}


@dataclass(frozen=True, slots=True)
class PipelineInputs:
    """The `inputs` of the inference API."""

    question: str
    context: str


@dataclass(frozen=True, slots=True)
class PipelineAsked:
    """A body of the inference API; its `options` were about how that API ran models, and change nothing here."""

    inputs: PipelineInputs
    parameters: PipelineRules = field(default_factory=PipelineRules)
    options: dict[str, Any] = field(default_factory=dict)

    def asked(self) -> Asked:
        return Asked(self.inputs.question, self.inputs.context, self.parameters, self.parameters.top_k)

    def told(self, answers: list[Answer]) -> Any:
        """One answer, or a list where `top_k` asked for more, as the pipeline gave them."""
        told = [answer.as_dict() for answer in answers]
        return told[0] if self.parameters.top_k == 1 else told


def parse_questions(body: bytes) -> tuple[list[QuestionAsked], bool]:
    """The questions of a body of `POST /v1/answer`, and whether they came as a list."""
    data = parse_json(body)
    if not isinstance(data, list):
        return [_record(data, QuestionAsked)], False
    if not 1 <= len(data) <= MOST_QUESTIONS:
        raise InputError(f"a list has 1 to {MOST_QUESTIONS} questions, this one has {len(data)}")
    return [_record(one, QuestionAsked, f"[{place}].") for place, one in enumerate(data)], True


def parse_pipeline(body: bytes) -> PipelineAsked:
    """A body of the inference API. What is null was not given."""
    data = {name: value for name, value in _known(parse_json(body), PipelineAsked).items() if value is not None}
    inputs = _record(data.get("inputs"), PipelineInputs, "inputs.")
    given = _object(data.get("parameters", {}), "parameters")
    _object(data.get("options", {}), "options")
    chosen = {name: value for name, value in given.items() if value is not None}
    parameters = _record(chosen, PipelineRules, "parameters.")
    _refuse_count("parameters.top_k", parameters.top_k)
    return PipelineAsked(inputs, parameters)


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _refuse_count(name: str, count: int) -> None:
    if not 1 <= count <= MOST_ANSWERS:
        raise InputError(f"`{name}` must be 1 to {MOST_ANSWERS}, it is {shown(count)}")


def _record(data: object, kind: type[Record], place: str = "") -> Record:
    try:
        return _REQUEST.record(_known(data, kind, place), kind)
    except InputError as error:
        raise InputError(f"{place.removesuffix('.')}: {error}" if place else str(error)) from error


def _object(data: object, name: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{name or 'the request'} must be a JSON object, it is {shown(data)}")
    return data


def _known(data: object, kind: type[Any], place: str = "") -> Mapping[str, Any]:
    names = [one.name for one in fields(kind)]
    found = _object(data, place.removesuffix("."))
    for name in found:
        if name not in names:
            raise InputError(f"{place}{shown(name)} is unknown; known: {', '.join(names)}")
    return found
