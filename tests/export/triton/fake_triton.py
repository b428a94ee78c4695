"""Stands in for `triton_python_backend_utils`, which exists inside of a Triton server only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.sessions.fake_session import made_up_logits
from densepack_runtime.sessions.session import INPUT_NAMES, OUTPUT_NAMES, Batch, Logits

Array = NDArray[Any]


class TritonModelException(Exception):  # noqa: N818  its name in Triton
    """What Triton raises where a request cannot even be made."""


@dataclass
class FakeTensor:
    name: str
    array: Array

    def as_numpy(self) -> Array:
        return self.array


@dataclass
class FakeError:
    text: str
    code: int

    INTERNAL, INVALID_ARG = 1, 3

    def message(self) -> str:
        return self.text


class FakeResponse:
    def __init__(self, output_tensors: Sequence[FakeTensor] = (), error: FakeError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> FakeError:
        assert self._error is not None
        return self._error

    def tensor(self, name: str) -> FakeTensor:
        [found] = [tensor for tensor in self._tensors if tensor.name == name]
        return found

    def column(self, name: str) -> list[Any]:
        """One output as the client sees it, [B, 1]."""
        array = self.tensor(name).as_numpy()
        assert array.shape[1:] == (1,)
        return list(array[:, 0].tolist())


@dataclass
class Request:
    """What a client asked."""

    pairs: Sequence[tuple[str | bytes, str | bytes]]
    cancelled: bool = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def tensor(self, name: str) -> FakeTensor:
        texts = [pair[("question", "context").index(name)] for pair in self.pairs]
        array = np.array([text.encode() if isinstance(text, str) else text for text in texts], dtype=np.object_)
        return FakeTensor(name, array[:, None])


class FakeTriton(ModuleType):
    """The module, with an engine model that gives `answer`'s logits and keeps its batches."""

    Tensor, TritonError, InferenceResponse = FakeTensor, FakeError, FakeResponse
    TritonModelException = TritonModelException
    TRITONSERVER_MEMORY_CPU = 1

    def __init__(self, answer: Callable[[Batch], Logits] = made_up_logits) -> None:
        super().__init__("triton_python_backend_utils")
        self.answer = answer
        self.batches: list[Batch] = []
        self.asked: list[str] = []

    def get_input_tensor_by_name(self, request: Request, name: str) -> FakeTensor:
        return request.tensor(name)

    def get_output_tensor_by_name(self, response: FakeResponse, name: str) -> FakeTensor:
        return response.tensor(name)

    def PreferredMemory(self, kind: int, device: int) -> tuple[int, int]:  # noqa: N802
        return kind, device

    def InferenceRequest(  # noqa: N802
        self,
        model_name: str,
        requested_output_names: list[str],
        inputs: Iterable[FakeTensor],
        preferred_memory: tuple[int, int],
    ) -> _EngineRequest:
        assert (requested_output_names, preferred_memory) == (list(OUTPUT_NAMES), (self.TRITONSERVER_MEMORY_CPU, 0))
        self.asked.append(model_name)
        arrays = {tensor.name: tensor.array for tensor in inputs}
        ids, mask, types = (arrays[name] for name in INPUT_NAMES)
        return _EngineRequest(self, Batch(ids, mask, types))


@dataclass
class _EngineRequest:
    triton: FakeTriton
    batch: Batch

    def exec(self) -> FakeResponse:
        self.triton.batches.append(self.batch)
        try:
            logits = self.triton.answer(self.batch)
        except RuntimeError as error:
            return FakeResponse(error=FakeError(str(error), FakeError.INTERNAL))
        return FakeResponse(
            [FakeTensor(name, array) for name, array in zip(OUTPUT_NAMES, (logits.start, logits.end), strict=True)]
        )
