"""Who takes part in a benchmark, on which shapes, under which settings; what all its sections share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from densepack_runtime.question_answering.windows import DOC_STRIDE, MAX_LENGTH, Windower
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Session
from densepack_runtime.structure import Cost

OnStep = Callable[[str], None]
OpenSession = Callable[[SessionOptions], Session]


@dataclass(frozen=True, slots=True)
class Texts:
    """How texts become windows for a side: its tokenizer.json, tokens in a window, tokens that neighbours share."""

    tokenizer_json: str
    max_length: int = MAX_LENGTH
    doc_stride: int = DOC_STRIDE

    def windower(self) -> Windower:
        return Windower(self.tokenizer_json, max_length=self.max_length, doc_stride=self.doc_stride)


@dataclass(frozen=True, slots=True)
class Side:
    """One contestant. `backend` and `precision` are for the reader of the report.

    `texts` is needed to measure on SQuAD. `open_again` opens the same session in another process, given the
    options; it can be pickled, and is needed to measure memory and how cost grows. The share of the
    peak is told for sides that run on the CPU, whose peak is known.
    """

    name: str
    session: Session
    cost: Cost
    backend: str = ""
    precision: str = ""
    on_gpu: bool = False
    batching: Batching = field(default_factory=Batching)
    random_weights: bool = False
    texts: Texts | None = None
    open_again: OpenSession | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of the table: windows in a batch, tokens in a window (no padding)."""

    batch: int
    length: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How it is measured: interleaved rounds, calls before the first of them, the pause before a sample, and the seed
    of synthetic inputs.
    """

    rounds: int = 5
    warmup: int = 2
    settle_ms: float = 50.0
    seed: int = 0


def synthetic_batch(cell: Cell, *, seed: int = 0) -> Batch:
    """A batch without padding: random tokens, the second half of each row being context."""
    rng = np.random.default_rng(seed)
    shape = (cell.batch, cell.length)
    token_types = np.zeros(shape, dtype=np.int64)
    token_types[:, cell.length // 2 :] = 1
    return Batch(
        input_ids=rng.integers(1, 1000, size=shape, dtype=np.int64),
        attention_mask=np.ones(shape, dtype=np.int64),
        token_type_ids=token_types,
    )


def unheard(_: str) -> None:
    """What nobody listens to."""


def in_turn(sides: Sequence[Side], number: int) -> Sequence[Side]:
    """Every side once; the one that begins changes with the round."""
    turn = number % len(sides)
    return (*sides[turn:], *sides[:turn])


def settle(milliseconds: float) -> None:
    """Wait until the threads of the side before have stopped spinning."""
    time.sleep(milliseconds / 1e3)
