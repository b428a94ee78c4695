"""Where and how to serve a bundle: one object that is handed down whole, to other processes, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from densepack_runtime.backends import AskedPrecision
from densepack_runtime.serving.batcher import MOST_TOKENS
from densepack_runtime.sessions.options import SessionOptions


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`most_tokens` bounds what waits; `open_to_all` allows that anybody may ask."""

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
