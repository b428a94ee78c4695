"""A session without a model, for tests of whatever uses sessions.

with FakeSession() as session:
    QuestionAnswerer(session, windower).answer(question="…", context="…")
    session.batches                                      # what it was asked
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from densepack_runtime.errors import BackendError
from densepack_runtime.sessions.session import Batch, Logits, SessionBase

# Primes: neighbouring tokens and places get logits that look unlike each other.
_TOKEN_STEP, _PLACE_STEP, _SPREAD = 7919, 104_729, 10_007


class FakeSession(SessionBase):
    """Gives the logits of `answer`, by default `made_up_logits`; `batches` keeps what was run, in order.

    Raises BackendError once it is closed, as every session does.
    """

    def __init__(self, answer: Callable[[Batch], Logits] | None = None) -> None:
        self.batches: list[Batch] = []
        self.closed = False
        self._answer = answer or made_up_logits

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch."""
        if self.closed:
            raise BackendError("the session is closed")
        self.batches.append(batch)
        return self._answer(batch)

    def close(self) -> None:
        """Refuse to run from now on."""
        self.closed = True


def made_up_logits(batch: Batch) -> Logits:
    """Logits between 0 and 10 that depend on a token and its place alone: the same in every batch and padding."""
    places = np.arange(batch.shape[1])
    mixed = batch.input_ids * _TOKEN_STEP + places * _PLACE_STEP
    start, end = (((mixed * factor) % _SPREAD / (_SPREAD / 10)).astype(np.float32) for factor in (1, 3))
    return Logits(start, end)
