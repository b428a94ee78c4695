"""The one abstraction of the runtime: a session turns a padded batch into start and end logits.

Every backend (ONNX Runtime, OpenVINO, TensorRT, PyTorch) is a Session; parity, benchmark and the question answerer know
nothing else about them.

    with open_choice(bundle, choose_backend(bundle)) as session:
        logits = session.run(batch)            # Logits, float32 [B, S]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BackendError
from densepack_runtime.structure import TokenTypes

# How a graph is typed, and how a session computes it: in bfloat16 and INT8, a backend runs the float32 graph.
Precision = Literal["fp32", "fp16"]
ComputePrecision = Literal["fp32", "fp16", "bf16", "int8"]
# What a bundle need not have: where it fails the ladder of a build, it is closed and the rest of the bundle stands.
OPTIONAL_PRECISIONS: tuple[ComputePrecision, ...] = ("bf16", "int8")
GRAPH_OF: dict[ComputePrecision, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "fp32"}
# What a batch has. A graph takes the token types only where its model is fed with them: see `graph_inputs`.
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT_NAMES = ("start_logits", "end_logits")


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded model inputs, int64 [B, S] each, with the window that each row came from.

    `windows` may be empty for synthetic batches (benchmarks, export checks); otherwise it has B entries.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    windows: tuple[Window, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(B, S)."""
        rows, length = self.input_ids.shape
        return rows, length

    def arrays(self, names: Sequence[str] = INPUT_NAMES) -> dict[str, NDArray[np.int64]]:
        """The inputs of these names, which are those that every graph of densepack uses."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Logits:
    """Start and end logits of a batch, float32 [B, S]. Values at padded positions have no meaning."""

    start: NDArray[np.float32]
    end: NDArray[np.float32]


def graph_inputs(token_types: TokenTypes) -> tuple[str, ...]:
    """What the graph of a model takes: token types only where they are fed."""
    return INPUT_NAMES if token_types == "fed" else INPUT_NAMES[:2]


def inputs_among(tensors: Iterable[str]) -> tuple[str, ...]:
    """What a graph with these tensors takes, if it is one of densepack's: token types are its own choice."""
    return graph_inputs("fed" if INPUT_NAMES[2] in tensors else "none")


def refuse_foreign_graph(path: Path, found: Mapping[str, str], int64: str, float32: str) -> None:
    """Raise BackendError unless a graph has densepack's inputs and outputs.

    `found` has the type of every tensor by name, `int64` and `float32` are what the backend calls these types.
    """
    wanted = dict.fromkeys(inputs_among(found), int64) | dict.fromkeys(OUTPUT_NAMES, float32)
    if found != wanted:
        told, needed = (
            ", ".join(f"{name} {kind}" for name, kind in sorted(types.items())) for types in (found, wanted)
        )
        raise BackendError(
            f"{path.name} is not a graph of densepack: its inputs and outputs are {told}; needed are {needed}"
        )


@runtime_checkable
class Session(Protocol):
    """A model that is ready to run. `close` frees what it holds; a closed session refuses to run."""

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the backend fails or the session is closed."""
        ...

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order. A backend that can overlaps copies and compute here."""
        ...

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SessionBase(ABC):
    """What most sessions have in common: batches one by one, closed when the `with` block ends."""

    @abstractmethod
    def run(self, batch: Batch) -> Logits:
        """Logits of one batch."""

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order."""
        return map(self.run, batches)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_NO_WORDS = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Window:
    """[CLS] question [SEP] slice of the context [SEP], not padded; between the two there can be more special tokens.

    `example` is the index of the question among those asked. `token_ids` int32 [S]. `context_start` is the index of
    the first context token in `token_ids`; the context tokens are `token_ids[context_start : S - 1]`, everything from
    `context_start` on has token type 1. `offsets` int32 [S - 1 - context_start, 2]: for each context token the
    characters (start, end) of the *original* context string. `first_token` is the position of the first context token
    of this window among all tokens of the context. `words` int32 [S - 1 - context_start]: the number of the word that
    each context token is of, ascending; empty where nobody aligns answers to words.
    """

    example: int
    token_ids: NDArray[np.int32]
    context_start: int
    offsets: NDArray[np.int32]
    first_token: int = 0
    words: NDArray[np.int32] = field(default_factory=lambda: _NO_WORDS)

    @property
    def length(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.token_ids)
