"""Who may ask: bearer tokens of a file, one a line.

bearers = Bearers.read(Path("tokens.txt"))
bearers.admits("Bearer 3f…")
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from densepack_runtime.errors import InputError
from densepack_runtime.host.strict_json import read_small

_SHORTEST = 16
_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bearers:
    """Hashes of the tokens that are admitted."""

    hashes: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The tokens of a file; empty lines and those that begin with # are none. Raises InputError."""
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
        return cls(tuple(_hash(token) for token in tokens))

    def admits(self, authorization: str) -> bool:
        """Whether a header has one of the tokens; how long that takes tells nothing about them."""
        scheme, _, token = authorization.partition(" ")
        given = _hash(token.strip())
        found = [hmac.compare_digest(given, known) for known in self.hashes]
        return scheme.lower() == "bearer" and any(found)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
