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

from densepack_runtime.errors import InputError, UnavailableError
from densepack_runtime.host.console import one_line
from densepack_runtime.sessions.session import Batch, Logits, Session, SessionBase

_LOGGER = logging.getLogger("densepack")


class ReopenedSession(SessionBase):
    """Runs batches in `session`, or in what `open_again` gives; `gave_up` hears why that was not enough, once.

    For one thread at a time, as a batcher uses it.
    """

    def __init__(
        self, session: Session, open_again: Callable[[], Session], gave_up: Callable[[Exception], None]
    ) -> None:
        self._session, self._open_again, self._gave_up = session, open_again, gave_up
        self._broken = False

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises UnavailableError once the session broke for good."""
        if not self._broken:
            try:
                return self._session.run(batch)
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - of whatever library
                _LOGGER.warning("the session broke and is opened again: %s", _told(error))
            try:
                return self._reopened().run(batch)
            except Exception as error:  # noqa: BLE001
                self._broken = True
                self._gave_up(error)
        raise UnavailableError("the model of this server broke: ask another one")

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def _reopened(self) -> Session:
        with suppress(Exception):  # what is broken may not even close
            self._session.close()
        self._session = self._open_again()
        return self._session


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
