"""Calls between two processes, both ways, over a socket that both hold: one line of JSON each.

    link = Link(end=end)                              # what the other one may call
    asyncio.create_task(link.run(socket))
    await link.call("prepare", "/srv/v2")

The other process is one of ours, of the same version; it is gone when the socket is closed there.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

from densepack_runtime.errors import BackendError
from densepack_runtime.host.console import one_line

_LONGEST_LINE = 1 << 20


class Link:
    """Answers calls of the other process with these functions, each in a task of its own."""

    def __init__(self, **answers: Callable[..., Awaitable[Any]]) -> None:
        self._answers = answers
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._began = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, end: socket.socket) -> None:
        """Answer until the other process is gone."""
        reader, self._writer = await asyncio.open_connection(sock=end, limit=_LONGEST_LINE)
        self._began.set()
        try:
            with suppress(ConnectionError):
                while line := await reader.readline():
                    self._take(json.loads(line))
        finally:
            self._writer.close()
            self._writer = None
            for future in self._waiting.values():
                future.cancel()

    async def call(self, name: str, *arguments: Any) -> Any:
        """What the other process answers, once `run` began. Raises BackendError with what it raised, or is gone."""
        await self._began.wait()
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"number": number, "call": name, "arguments": arguments})
            return await future
        except asyncio.CancelledError:
            if self._writer is None:
                raise BackendError("the process that was to answer is gone") from None
            raise
        finally:
            del self._waiting[number]

    def _take(self, message: dict[str, Any]) -> None:
        if "call" in message:
            task = asyncio.create_task(self._answer(**message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (future := self._waiting.get(message["number"])) is not None and not future.done():
            if "error" in message:
                future.set_exception(BackendError(message["error"]))
            else:
                future.set_result(message["result"])

    async def _answer(self, number: int, call: str, arguments: list[Any]) -> None:
        try:
            answer = {"result": await self._answers[call](*arguments)}
        except Exception as error:  # noqa: BLE001 - the caller's
            answer = {"error": one_line(error) or type(error).__name__}
        with suppress(BackendError):
            self._send({"number": number, **answer})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None:
            raise BackendError("the process that was to answer is gone")
        self._writer.write(json.dumps(message).encode() + b"\n")
