"""What is sent back: JSON, where the time went, and every error as `{"error": …}`.

An error has neither a traceback nor a path, and never more of what was sent than 60 characters.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from densepack_runtime.errors import (
    DeadlineError,
    DensepackError,
    InputError,
    QueueFullError,
    ReloadError,
    UnavailableError,
)
from densepack_runtime.host.console import one_line
from densepack_runtime.serving.batcher import Answered, Seconds

_GONE = 499  # as nginx counts those who hung up; nobody reads it
_STATUS: dict[type[DensepackError], int] = {
    InputError: 422,
    ReloadError: 409,
    QueueFullError: 429,
    DeadlineError: 504,
    UnavailableError: 503,
}
_LOGGER = logging.getLogger("densepack")


def json_bytes(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(document), status, headers, media_type="application/json")


def error_response(status: int, told: str, headers: dict[str, str] | None = None) -> Response:
    return json_response({"error": told}, status, headers)


def timing(found: Sequence[Answered | InputError]) -> dict[str, str]:
    """The header with the milliseconds of each step, of the question that took longest in it."""
    seconds = [answered.seconds for answered in found if isinstance(answered, Answered)]
    steps = {name: max((getattr(one, name) for one in seconds), default=0.0) for name in Seconds.__slots__}
    return {"Server-Timing": ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in steps.items())}


def brief(error: ValueError) -> str:
    """What is wrong, without the text that it is wrong in."""
    if isinstance(error, UnicodeError):
        return "its text is not valid Unicode"
    return one_line(error)


async def _http_error(_: Request, error: HTTPException) -> Response:
    return error_response(error.status_code, error.detail, dict(error.headers or {}))


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=_GONE)


async def _our_error(request: Request, error: DensepackError) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:  # it may name files of this host
        return await _any_error(request, error)
    wait_s = error.wait_s if isinstance(error, QueueFullError) else 1.0
    headers = {"Retry-After": str(min(60, max(1, math.ceil(wait_s))))} if status in (429, 503) else {}
    return error_response(status, one_line(error), headers)


async def _any_error(request: Request, error: Exception) -> Response:
    name = request.scope["request_id"]
    _LOGGER.error("request %s failed: %s: %s", name, type(error).__name__, one_line(error))
    return error_response(500, f"the server failed on this request: its log says why under {name}")


HANDLERS: dict[Any, Any] = {
    HTTPException: _http_error,
    DensepackError: _our_error,
    ClientDisconnect: _gone,
    Exception: _any_error,
}
"""What becomes of an exception that an endpoint raises, for Starlette."""
