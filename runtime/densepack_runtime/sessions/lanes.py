"""Sessions of one model side by side, so that as many batches are run at once.

    session = Lanes([opened, opened_again])
    session.run(batch)                          # in one that is free; in which one, nobody needs to know

On a CPU the threads of a batch wait for each other: where Python takes one of their cores, the others have nothing to
do unless another batch is run. A batch alone has all the threads of its session, and is as fast as without lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import LifoQueue
from typing import Self

from densepack_runtime.sessions.session import Batch, Logits, Session, SessionBase


class Lanes(SessionBase):
    """Runs each batch in the session that was free last, whose memory is still in the caches. Thread-safe."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = tuple(sessions)
        self._free: LifoQueue[Session] = LifoQueue()
        for session in reversed(self.sessions):
            self._free.put(session)

    @classmethod
    def of(cls, count: int, open_one: Callable[[], Session]) -> Self:
        """So many sessions, all of them or none: where one cannot be opened, the others are closed."""
        with ExitStack() as opened:
            sessions = [opened.enter_context(open_one()) for _ in range(count)]
            opened.pop_all()
        return cls(sessions)

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch, as soon as a session is free. Raises what that raises."""
        session = self._free.get()
        try:
            return session.run(batch)
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Free all of them."""
        for session in self.sessions:
            session.close()


def lanes_in(session: Session) -> tuple[Session, ...]:
    """Each of the sessions that a batch may be run in."""
    return session.sessions if isinstance(session, Lanes) else (session,)
