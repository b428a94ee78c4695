"""Backends that go wrong in every way that a host can; a process that is started to try one registers them, too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import parent_process

import numpy as np

from densepack_runtime.backends import BACKENDS, Backend, Runnable
from densepack_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, SessionBase

FOREVER_SECONDS = 3600


class Changed(SessionBase):
    """ONNX Runtime, with something done to what it gives."""

    def __init__(self, model: Runnable, options: SessionOptions, change: Callable[[Batch, Logits], Logits]) -> None:
        self._session, self._change = OnnxRuntimeSession(model.file, options), change

    def run(self, batch: Batch) -> Logits:
        return self._change(batch, self._session.run(batch))

    def close(self) -> None:
        self._session.close()


def ends_its_process(batch: Batch, logits: Logits) -> Logits:
    os.kill(os.getpid(), signal.SIGSEGV)
    return logits


def hangs(batch: Batch, logits: Logits) -> Logits:
    time.sleep(FOREVER_SECONDS)
    return logits


def gives_nan(batch: Batch, logits: Logits) -> Logits:
    return Logits(np.full_like(logits.start, np.nan), logits.end)


def answers_wrongly(batch: Batch, logits: Logits) -> Logits:
    return Logits(logits.end, logits.start)


def is_wrong_at_one_token(batch: Batch, logits: Logits) -> Logits:
    return logits if batch.shape != (1, 1) else Logits(logits.start + 1, logits.end)


def is_wrong_in_large_batches(batch: Batch, logits: Logits) -> Logits:
    return logits if batch.shape[0] < 64 else Logits(logits.start[::-1].copy(), logits.end)


CHANGES = (ends_its_process, hangs, gives_nan, answers_wrongly, is_wrong_at_one_token, is_wrong_in_large_batches)


def _opening(change: Callable[[Batch, Logits], Logits]) -> Callable[[Runnable, SessionOptions], Changed]:
    return lambda model, options: Changed(model, options, change)


PLANTED = {change.__name__: Backend(change.__name__, ("fp32",), _opening(change)) for change in CHANGES}
if parent_process() is not None:
    BACKENDS.update(PLANTED)
