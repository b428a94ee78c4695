"""The meter counts what went through, and its seconds are those inside the session alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from densepack_runtime.sessions.metered_session import MeteredSession
from densepack_runtime.sessions.session import Batch, Logits, Session
from tests.sleeping_session import Clock, SleepingSession

SLEEP = 0.2


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.installed(monkeypatch)


def batch_of(rows: int, length: int, padding: int) -> Batch:
    mask = np.ones((rows, length), dtype=np.int64)
    mask[0, length - padding :] = 0
    return Batch(np.ones((rows, length), dtype=np.int64), mask, np.zeros((rows, length), dtype=np.int64))


class LookingAhead(SleepingSession):
    """Takes the next batch before it gives the logits of the last one, as TensorRT's session does."""

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        waiting: list[Batch] = []
        for batch in batches:
            if waiting:
                yield self.run(waiting.pop())
            waiting.append(batch)
        yield from map(self.run, waiting)


@pytest.mark.parametrize("kind", [SleepingSession, LookingAhead])
def test_time_to_make_a_batch_or_to_use_logits_is_outside(kind: type[SleepingSession], clock: Clock) -> None:
    session = kind("inside", SLEEP / 10)
    assert isinstance(session, Session)
    metered = MeteredSession(session)

    def slowly() -> Iterator[Batch]:
        for _ in range(2):
            time.sleep(SLEEP)
            yield batch_of(2, 5, padding=3)

    found = 0
    for logits in metered.run_many(slowly()):
        time.sleep(SLEEP)
        assert logits.start.shape == (2, 5)
        found += 1
    assert found == 2
    assert clock.now == pytest.approx(6 * SLEEP)
    assert metered.meter.seconds == pytest.approx(2 * SLEEP)
    meter = metered.meter
    assert (meter.windows, meter.tokens, meter.padded_tokens, meter.padded_pairs) == (4, 14, 20, 100)


def test_one_batch_at_a_time_counts_the_same() -> None:
    metered = MeteredSession(SleepingSession("inside", SLEEP / 10))
    metered.run(batch_of(2, 5, padding=0))
    assert metered.meter.seconds == pytest.approx(SLEEP)
    assert metered.meter.windows == 2


def test_an_error_while_a_batch_is_made_passes_through() -> None:
    metered = MeteredSession(SleepingSession("inside", 0))

    def broken() -> Iterator[Batch]:
        yield batch_of(1, 4, padding=0)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(metered.run_many(broken()))
    assert metered.meter.windows == 1
