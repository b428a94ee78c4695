"""Where and how to serve a bundle: one object that is handed down whole, to other processes, too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from densepack_runtime.backends import AskedPrecision
from densepack_runtime.serving.batcher import MOST_TOKENS
from densepack_runtime.sessions.options import SessionOptions


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`most_tokens` bounds what waits; `open_to_all` allows that anybody may ask. Threads and tokens are those of all
    `workers` together. `lanes` are the batches that each runs at once; None leaves it to the backend.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    backend: str = "auto"
    precision: AskedPrecision | None = "fastest"
    session: SessionOptions = field(default_factory=SessionOptions)
    strict: bool = False
    most_tokens: int = MOST_TOKENS
    timeout_s: float = 30.0
    token_file: Path | None = None
    reload_token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    open_to_all: bool = False
    workers: int = 1
    lanes: int | None = None

    def shares(self) -> list[Self]:
        """The options of each worker."""
        threads, rest = divmod(self.session.cpu_threads, self.workers)
        return [
            replace(
                self,
                session=replace(self.session, threads=max(1, threads + (number < rest))),
                most_tokens=max(1, self.most_tokens // self.workers),
            )
            for number in range(self.workers)
        ]
