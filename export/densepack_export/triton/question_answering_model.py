"""The model that Triton's Python backend runs: questions and contexts in, answers out. Copied as model.py.

Everything between text and logits is densepack_runtime's. The questions of all requests that Triton hands over at once
are cut into windows and run in batches of similar length by the engine model beside it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it

from densepack_runtime.errors import BackendError, DensepackError, InputError
from densepack_runtime.question_answering.answers import Answer, SpanRules, WindowSpans
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.pools import Pool, pools_of
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.batching import length_sorted_batches
from densepack_runtime.sessions.session import OUTPUT_NAMES, Batch, Logits

_CANCELLED = InputError("the request was cancelled")


class TritonPythonModel:
    """One instance. A question that cannot be answered is an error of its own request, whatever comes with it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer and settings.json from the version's folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self._engine: str = settings["engine"]
        self._inputs: list[str] = settings["inputs"]
        self._batches: dict[str, int] = settings["batches"]
        self._rules = SpanRules(**settings["rules"])
        self._truncate_question: bool = settings["truncate_question"]
        self._windower = Windower.from_file(folder / "tokenizer.json", **settings["windows"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in order."""
        asked = [[_CANCELLED] if request.is_cancelled() else _pairs(request) for request in requests]
        results = self._results(pair for pairs in asked for pair in pairs)
        return [_response(list(islice(results, len(pairs)))) for pairs in asked]

    def _results(self, pairs: Iterable[Pair | InputError]) -> Iterator[Answer | DensepackError]:
        for pool in pools_of(pairs, self._windower, truncate_question=self._truncate_question):
            if pool is not None:  # a pause, which nobody makes here
                yield from self._answered(pool)

    def _answered(self, pool: Pool) -> Iterator[Answer | DensepackError]:
        """The best answers of a pool in order. A batch that fails costs the questions with windows in it, no others."""
        found: dict[int, list[WindowSpans]] = defaultdict(list)
        failed: dict[int, DensepackError] = {}
        for batch in length_sorted_batches(
            pool.windows(),
            pad_id=self._windower.pad_id,
            pool_windows=max(1, pool.window_count),
            **self._batches,
        ):
            try:
                read = self._rules.read(batch, self._logits(batch))
            except BackendError as error:
                failed.update((window.example - pool.first, error) for window in batch.windows)
            else:
                for window, spans in zip(batch.windows, read, strict=True):
                    found[window.example - pool.first].append(spans)
        for place, result in enumerate(pool.results):
            if isinstance(result, InputError):
                yield result
            else:
                yield failed.get(place) or self._best(pool.contexts[place], found[place])

    def _best(self, context: str, found: Sequence[WindowSpans]) -> Answer | DensepackError:
        try:
            return self._rules.answers(context, found)[0]
        except BackendError as error:
            return error

    def _logits(self, batch: Batch) -> Logits:
        """One batch through the engine model. Raises BackendError with what Triton says."""
        request = pb_utils.InferenceRequest(
            model_name=self._engine,
            requested_output_names=list(OUTPUT_NAMES),
            inputs=[pb_utils.Tensor(name, array) for name, array in batch.arrays(self._inputs).items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        try:
            response = request.exec()
            if response.has_error():
                raise BackendError(f"the model {self._engine} failed: {response.error().message()}")
        except pb_utils.TritonModelException as error:
            raise BackendError(f"the model {self._engine} failed: {error}") from error
        start, end = (pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in OUTPUT_NAMES)
        return Logits(start, end)


def _pairs(request: Any) -> list[Pair | InputError]:
    """The questions of a request with their contexts; BYTES [B, 1] both."""
    texts = (pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel() for name in ("question", "context"))
    return [_decoded(question, context) for question, context in zip(*texts, strict=True)]


def _decoded(question: bytes, context: bytes) -> Pair | InputError:
    try:
        return question.decode(), context.decode()
    except UnicodeDecodeError as error:
        return InputError(f"question and context must be UTF-8: {error}")


def _response(results: Sequence[Answer | DensepackError]) -> Any:
    """The answers of one request, [B, 1] each; an error where one of its questions has none."""
    answers = [result for result in results if isinstance(result, Answer)]
    for number, result in enumerate(results, start=1):
        if isinstance(result, DensepackError):
            place = f"question {number} of {len(results)}: " if len(results) > 1 else ""
            code = pb_utils.TritonError.INVALID_ARG if isinstance(result, InputError) else pb_utils.TritonError.INTERNAL
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{place}{result}", code))
    columns = {
        "answer": np.array([answer.text.encode() for answer in answers], dtype=np.object_),
        "start": np.array([answer.start for answer in answers], dtype=np.int32),
        "end": np.array([answer.end for answer in answers], dtype=np.int32),
        "score": np.array([answer.score for answer in answers], dtype=np.float64),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, column[:, None]) for name, column in columns.items()])
