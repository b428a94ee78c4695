"""The server's HTTP: a Starlette application around a batcher.

    application = application_of(Service(batcher, answerer, metrics, name="default", facts={…}))

Every response has an `X-Request-Id`; every error is `{"error": …}` with neither a traceback nor a path, and never more
of what was sent than 60 characters.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from densepack_runtime.errors import DeadlineError, DensepackError, InputError, QueueFullError, UnavailableError
from densepack_runtime.host.console import one_line
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving import metrics
from densepack_runtime.serving.batcher import Answered, Asked, Batcher, Seconds
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.openapi import openapi
from densepack_runtime.serving.requests import parse_pipeline, parse_questions

MOST_BYTES = 2 << 20
# A body that is too large is read to its end and forgotten, so that its sender gets to read why; not for ever.
_MOST_IGNORED_BYTES = 64 << 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN_PATHS = ("/healthz", "/readyz")
_GONE = 499  # as nginx counts those who hung up; nobody reads it
_STATUS: dict[type[DensepackError], int] = {
    InputError: 422,
    QueueFullError: 429,
    DeadlineError: 504,
    UnavailableError: 503,
}
_LOGGER = logging.getLogger("densepack")
Parsed = TypeVar("Parsed")


@dataclass
class Service:
    """What the application serves, and where it is in its life. `facts` are told at /v1/model."""

    batcher: Batcher
    answerer: QuestionAnswerer
    metrics: metrics.Metrics
    name: str
    facts: dict[str, Any]
    timeout_s: float = 30.0
    bearers: Bearers | None = None
    warmed: bool = False
    ending: bool = False

    @property
    def ready(self) -> bool:
        return self.warmed and not self.ending


def application_of(service: Service) -> ASGIApp:
    """The ASGI application."""
    endpoints = _Endpoints(service)
    routes = [
        Route("/v1/answer", endpoints.answer, methods=["POST"]),
        Route("/", endpoints.pipeline, methods=["POST"]),
        Route("/models/{name:path}", endpoints.pipeline, methods=["POST"]),
        Route("/healthz", endpoints.health),
        Route("/readyz", endpoints.readiness),
        Route("/v1/model", endpoints.model),
        Route("/metrics", endpoints.metrics),
        Route("/openapi.json", endpoints.openapi),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _http_error,
        DensepackError: _our_error,
        ClientDisconnect: _gone,
        Exception: _any_error,
    }
    application = Starlette(routes=routes, exception_handlers=handlers)
    application.router.redirect_slashes = False
    return _Guard(application, service)


# --- around every request --------------------------------------------------------------------------------------------


class _Guard:
    """Gives a request its id, asks for its token, counts it, and closes connections when the server ends."""

    def __init__(self, application: ASGIApp, service: Service) -> None:
        self._application, self._service = application, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers, start = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["request_id"] = name

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["X-Request-Id"] = name
                if self._service.ending:
                    told["Connection"] = "close"
                endpoint = getattr(scope.get("endpoint"), "__name__", "none")
                self._service.metrics.request(endpoint, message["status"], time.monotonic() - start)
            await send(message)

        await self._admitted(scope, headers)(scope, receive, send_with_id)

    def _admitted(self, scope: Scope, headers: Headers) -> ASGIApp:
        bearers = self._service.bearers
        if bearers is None or scope["path"] in _OPEN_PATHS or bearers.admits(headers.get("authorization", "")):
            return self._application
        return _error(401, "a bearer token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def _error(status: int, told: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": told}, status, headers)


async def _http_error(_: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, dict(error.headers or {}))


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=_GONE)


async def _our_error(request: Request, error: DensepackError) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:  # it may name files of this host
        return await _any_error(request, error)
    wait_s = error.wait_s if isinstance(error, QueueFullError) else 1.0
    headers = {"Retry-After": str(min(60, max(1, math.ceil(wait_s))))} if status in (429, 503) else {}
    return _error(status, one_line(error), headers)


async def _any_error(request: Request, error: Exception) -> Response:
    _LOGGER.error("request %s failed: %s: %s", request.scope["request_id"], type(error).__name__, one_line(error))
    return _error(500, "the server failed on this request; its log says why under the request's id")


# --- the endpoints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Endpoints:
    service: Service

    async def answer(self, request: Request) -> Response:
        """POST /v1/answer."""
        questions, many = await self._parsed(request, parse_questions)
        rules = self.service.answerer.rules, self.service.answerer.pipeline_rules
        found = await self._found(request, [question.asked(*rules) for question in questions])
        told = [
            {**({} if one.id is None else {"id": one.id}), "error": one_line(answers)}
            if isinstance(answers, InputError)
            else one.told(answers.answers)
            for one, answers in zip(questions, found, strict=True)
        ]
        if not many and isinstance(found[0], InputError):
            raise found[0]
        return _json(told if many else told[0], headers=_timing(found))

    async def pipeline(self, request: Request) -> Response:
        """POST / and /models/NAME, as the Hugging Face inference API."""
        name = request.path_params.get("name", self.service.name)
        if name != self.service.name:
            raise HTTPException(404, "this server has another model: /v1/model says which")
        asked = await self._parsed(request, parse_pipeline)
        [answered] = found = await self._found(request, [asked.asked()])
        if isinstance(answered, InputError):
            raise answered
        return _json(asked.told(answered.answers), headers=_timing(found))

    async def health(self, _: Request) -> Response:
        return _json({"alive": True})

    async def readiness(self, _: Request) -> Response:
        return _json({"ready": self.service.ready}, 200 if self.service.ready else 503)

    async def model(self, _: Request) -> Response:
        return _json(self.service.facts)

    async def metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.page(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        return _json(openapi(secured=self.service.bearers is not None))

    async def _parsed(self, request: Request, parse: Callable[[bytes], Parsed]) -> Parsed:
        """What a body asks; parsed in a thread, since a large one takes a while."""
        if not self.service.warmed:
            raise UnavailableError("this server starts: ask again in a moment")
        try:
            async with asyncio.timeout(self.service.timeout_s):
                body = await _body(request)
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        try:
            return await asyncio.to_thread(parse, body)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {_brief(error)}") from error

    async def _found(self, request: Request, asked: Sequence[Asked]) -> list[Answered | InputError]:
        """An answer to each, or what is wrong with it. One that hangs up meanwhile leaves the line."""
        futures = self.service.batcher.ask(asked, self.service.timeout_s)
        answers = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait((answers, gone), timeout=self.service.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                if gone.done():
                    raise ClientDisconnect
                raise DeadlineError("the answer was not there in time: ask again, or for less")
        finally:
            gone.cancel()
            if answers.cancel():  # what comes of it then is nobody's, and not an error for the log
                answers.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return [self._counted(one) for one in answers.result()]

    def _counted(self, found: Answered | BaseException) -> Answered | InputError:
        if isinstance(found, Answered):
            self.service.metrics.answered(found.seconds)
            return found
        if isinstance(found, InputError):
            return found
        raise found


async def _body(request: Request) -> bytes:
    """The body, where it is not too large."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MOST_IGNORED_BYTES:
            break
        chunks.append(chunk)
        if size > MOST_BYTES:
            chunks.clear()
    if size > MOST_BYTES:
        raise HTTPException(413, f"a body has at most {MOST_BYTES:,} bytes")
    return b"".join(chunks)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _brief(error: ValueError) -> str:
    """What is wrong, without the text that it is wrong in."""
    if isinstance(error, UnicodeError):
        return "its text is not valid Unicode"
    return one_line(error)


def _timing(found: Sequence[Answered | InputError]) -> dict[str, str]:
    """Milliseconds of each step, of the question that took longest in it."""
    seconds = [answered.seconds for answered in found if isinstance(answered, Answered)]
    steps = {name: max((getattr(one, name) for one in seconds), default=0.0) for name in Seconds.__slots__}
    return {"Server-Timing": ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in steps.items())}
