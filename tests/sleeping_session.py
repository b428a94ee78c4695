"""A session whose speed is known, because it sleeps; it can be opened in another process, too."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, Session, SessionBase

# What a look at the clock takes, so that no time is zero.
TICK = 1e-9


@dataclass
class Clock:
    """Time that passes when somebody sleeps, and by a tick when somebody looks, whatever the machine is doing."""

    now: float = 0.0

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """Put it in place of `time.perf_counter` and `time.sleep`."""
        clock = cls()
        monkeypatch.setattr(time, "perf_counter", clock.read)
        monkeypatch.setattr(time, "sleep", clock.sleep)
        return clock

    def read(self) -> float:
        self.now += TICK
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class SleepingSession(SessionBase):
    """Takes a fixed time per padded token, and writes its name into `log` when it runs.

    Its logits grow with the token ids, so that answers do not depend on batches.
    """

    name: str
    seconds_per_token: float
    log: list[str] = field(default_factory=list)

    def run(self, batch: Batch) -> Logits:
        self.log.append(self.name)
        time.sleep(self.seconds_per_token * batch.input_ids.size)
        logits = batch.input_ids.astype(np.float32)
        return Logits(logits, logits)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class OpenSleeping:
    """Opens one that takes `seconds_per_token` with one thread, and twice that with two: it never ends too early."""

    seconds_per_token: float

    def __call__(self, options: SessionOptions) -> Session:
        return SleepingSession("fresh", self.seconds_per_token * (options.threads or 1))
