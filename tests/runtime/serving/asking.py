"""Ask an ASGI application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from starlette.types import ASGIApp, Message

from tests.runtime.serving.running import Got

NO_HEADERS: Mapping[bytes, bytes] = {}


async def ask(
    application: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[bytes, bytes] = NO_HEADERS,
    cuts: Sequence[int] = (),
) -> Got:
    """The response to a body that comes in pieces, cut at these places. Raises what the application raises."""
    sent: list[Message] = []
    pieces = _pieces(body, cuts)

    async def receive() -> Message:
        for piece, more in pieces:
            return {"type": "http.request", "body": piece, "more_body": more}
        await asyncio.get_running_loop().create_future()  # nobody hangs up
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in headers.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    await application(scope, receive, send)
    start, *rest = sent
    told = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Got(start["status"], told, b"".join(message.get("body", b"") for message in rest))


def _pieces(body: bytes, cuts: Sequence[int]) -> Iterator[tuple[bytes, bool]]:
    """The pieces, and whether more of them follow."""
    places = [0, *sorted(cuts), len(body)]
    for place, (start, end) in enumerate(pairwise(places)):
        yield body[start:end], place < len(places) - 2
