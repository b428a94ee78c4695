"""A session that is opened again when it breaks: a driver that was reset, a device that was taken away and came back.

    session = ReopenedSession(opened, open_again, gave_up)
    session.run(batch)                    # of the second session, where the first one broke

A batch that breaks a session is run again, once, by one that was opened for it. Where that breaks, too, something else
is wrong than the session: from then on nothing is run, and whoever started the process starts it anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from densepack_runtime.errors import InputError, UnavailableError
from densepack_runtime.host.console import one_line
from densepack_runtime.sessions.session import Batch, Logits, Session, SessionBase

_LOGGER = logging.getLogger("densepack")


class ReopenedSession(SessionBase):
    """Runs batches in `session`, or in what `open_again` gives; `gave_up` hears why that was not enough, once.

    For several threads, if the sessions are: what breaks under all of them is opened again for all of them.
    """

    def __init__(
        self, session: Session, open_again: Callable[[], Session], gave_up: Callable[[Exception], None]
    ) -> None:
        self._session, self._open_again, self._gave_up = session, open_again, gave_up
        self._changing, self._broken = Lock(), False

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises UnavailableError once the session broke for good."""
        session = self._session
        if not self._broken:
            try:
                return session.run(batch)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - of whatever library
                broke = error
            try:
                return self._after(session, broke).run(batch)
            except Exception as error:  # noqa: BLE001
                self._give_up(error)
        raise UnavailableError("the model of this server broke: ask another one")

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def _after(self, broken: Session, why: Exception) -> Session:
        """What runs now: another thread may have opened it already."""
        with self._changing:
            if self._session is broken and not self._broken:
                _LOGGER.warning("the session broke and is opened again: %s", _told(why))
                with suppress(Exception):  # what is broken may not even close
                    broken.close()
                self._session = self._open_again()
            return self._session

    def _give_up(self, error: Exception) -> None:
        with self._changing:
            told, self._broken = self._broken, True
        if not told:
            self._gave_up(error)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
