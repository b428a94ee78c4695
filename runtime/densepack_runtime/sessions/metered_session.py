"""A session that counts what goes through it, and how long it takes: windows, tokens, FLOPs, seconds.

metered = MeteredSession(session)
QuestionAnswerer(metered, windower).predict(dataset)
metered.meter.seconds, metered.meter.padded_tokens
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from densepack_runtime.sessions.session import Batch, Logits, Session, SessionBase


@dataclass
class Meter:
    """What went through a session so far.

    `tokens` are those that the attention mask counts, `padded_tokens` all of them; `padded_pairs` is the sum of
    B * S**2. `seconds` is the time in which at least one call was inside the session; waiting for its next batch is not
    inside.
    """

    windows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    padded_pairs: int = 0
    seconds: float = 0.0

    def count(self, batch: Batch) -> None:
        rows, length = batch.shape
        self.windows += rows
        self.tokens += int(batch.attention_mask.sum())
        self.padded_tokens += rows * length
        self.padded_pairs += rows * length**2


class MeteredSession(SessionBase):
    """Passes everything on to `session`; `meter` has what it saw. Thread-safe when the session is."""

    def __init__(self, session: Session) -> None:
        self.meter = Meter()
        self._session = session
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch."""
        self._count(batch)
        with self._entered():
            return self._session.run(batch)

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order, as the session itself overlaps them."""
        found = iter(self._session.run_many(self._supplied(batches)))
        while True:
            with self._entered():
                logits = next(found, None)
            if logits is None:
                return
            yield logits

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def _supplied(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; while the next one is being made, the session only waits."""
        source = iter(batches)
        while True:
            self._step(-1)
            try:
                batch = next(source, None)
                if batch is not None:
                    self._count(batch)
            finally:
                self._step(1)
            if batch is None:
                return
            yield batch

    def _count(self, batch: Batch) -> None:
        with self._lock:
            self.meter.count(batch)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self._step(1)
        try:
            yield
        finally:
            self._step(-1)

    def _step(self, change: int) -> None:
        """One call more or one less is inside the session."""
        with self._lock:
            now = time.perf_counter()
            if self._inside > 0:
                self.meter.seconds += now - self._since
            self._since = now
            self._inside += change
