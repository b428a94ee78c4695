"""Who may ask: bearer tokens of a file, one a line.

bearers = Bearers.read(Path("tokens.txt"))
bearers.admits("Bearer 3f…")
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from densepack_runtime.errors import InputError
from densepack_runtime.host.console import one_line
from densepack_runtime.host.strict_json import read_small

_SHORTEST = 16
_LARGEST_BYTES = 1 << 20
# How long a token that was taken out of the file is still admitted.
LOOK_AGAIN_S = 1.0
_LOGGER = logging.getLogger("densepack")


class Bearers:
    """Hashes of the tokens in a file, which is read again when it has changed.

    Where it cannot be used then, those that were read before stay admitted, and the log says why. Raises InputError
    where it cannot be used at first.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._seen, self._looked = _state(path), clock()
        self._hashes = _read(path)

    @classmethod
    def read(cls, path: Path | None) -> Self | None:
        """The tokens of a file; None where none is named."""
        return None if path is None else cls(path)

    def admits(self, authorization: str) -> bool:
        """Whether a header has one of the tokens; how long that takes tells nothing about them."""
        self._look_again()
        scheme, _, token = authorization.partition(" ")
        given = _hash(token.strip())
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return scheme.lower() == "bearer" and any(found)

    def _look_again(self) -> None:
        now = self._clock()
        if now < self._looked + LOOK_AGAIN_S:
            return
        self._looked, before, self._seen = now, self._seen, _state(self._path)
        if self._seen == before:
            return
        try:
            self._hashes = _read(self._path)
        except InputError as error:
            _LOGGER.warning("the tokens stay as they were: %s", one_line(error))
        else:
            _LOGGER.info("read %d tokens from %s again", len(self._hashes), self._path)


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file, or where a link to it leads, is another one."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> tuple[bytes, ...]:
    """Hashes of the tokens; empty lines and those that begin with # are none. Raises InputError."""
    try:
        lines = read_small(path, _LARGEST_BYTES).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the tokens cannot be read from {path}: {error}") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens or min(map(len, tokens)) < _SHORTEST:
        raise InputError(
            f"{path} has {len(tokens)} tokens; needed is at least one, of at least {_SHORTEST} characters each: "
            "openssl rand -hex 32"
        )
    return tuple(_hash(token) for token in tokens)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
