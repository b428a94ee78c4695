"""The server's HTTP: an ASGI application around a model.

    application = application_of(Service(model, metrics, warmed=True))
    Starlette(routes=[Mount("/qa", application)])                 # or FastAPI().mount("/qa", application)

Alone or under a prefix of another application, which then need not know its errors: every response is made here, and
has an `X-Request-Id`.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from densepack_runtime.errors import DeadlineError, InputError, UnavailableError
from densepack_runtime.host.console import one_line
from densepack_runtime.serving import inference_protocol as protocol
from densepack_runtime.serving import metrics
from densepack_runtime.serving.batcher import Answered, Asked
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.openapi import openapi
from densepack_runtime.serving.page import Page
from densepack_runtime.serving.requests import parse_pipeline, parse_questions
from densepack_runtime.serving.responses import HANDLERS, brief, error_response, json_response, timing

MOST_BYTES = 2 << 20
# Parsed in less than a millisecond; the way to a thread and back would take longer than most bodies.
_SMALL_BYTES = 32 << 10
# A body that is too large is read to its end and forgotten, so that its sender gets to read why; not for ever.
_MOST_IGNORED_BYTES = 64 << 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What is told without a token: whether it lives and answers, and the page that a token can be put into.
_OPEN_PATHS = ("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
# What only those may ask who have a token of its own.
_RELOAD_PATH = "/v1/reload"
Parsed = TypeVar("Parsed")


@dataclass
class Service:
    """What the application serves, and where it is in its life.

    Another `model` may take its place between two steps of the event loop. `reload` does that: for who has one of
    `reload_bearers`, and when `reload_asked` is set.
    """

    model: Model
    metrics: metrics.Metrics
    timeout_s: float = 30.0
    bearers: Bearers | None = None
    reload: Callable[[], Awaitable[dict[str, Any]]] | None = None
    reload_bearers: Bearers | None = None
    reload_asked: threading.Event = field(default_factory=threading.Event)
    warmed: bool = False
    ending: bool = False
    failure: Exception | None = None

    @property
    def ready(self) -> bool:
        return self.warmed and not self.ending

    def give_up(self, error: Exception) -> None:
        """End: the model cannot be run any more."""
        self.failure, self.ending = error, True


def application_of(service: Service) -> ASGIApp:
    """The ASGI application; the model behind it must be warmed by whoever opened it (`serving.server` does)."""
    endpoints = _Endpoints(service, Page.read())
    application = Starlette(routes=_routes(endpoints), exception_handlers=HANDLERS)
    application.router.redirect_slashes = False
    return _Guard(application, service)


def _routes(endpoints: _Endpoints) -> list[Route]:
    routes = [
        Route("/", endpoints.page),
        Route("/", endpoints.pipeline, methods=["POST"]),
        Route("/models/{name:path}", endpoints.pipeline, methods=["POST"]),
        Route("/v1/answer", endpoints.answer, methods=["POST"]),
        Route("/v1/model", endpoints.model),
        Route(_RELOAD_PATH, endpoints.reload, methods=["POST"]),
        Route("/healthz", endpoints.health),
        Route("/readyz", endpoints.readiness),
        Route("/metrics", endpoints.metrics),
        Route("/openapi.json", endpoints.openapi),
        Route("/v2", endpoints.v2_server),
        Route("/v2/health/live", endpoints.health),
        Route("/v2/health/ready", endpoints.readiness),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(model, endpoints.v2_model),
            Route(f"{model}/ready", endpoints.v2_model_readiness),
            Route(f"{model}/infer", endpoints.v2_infer, methods=["POST"]),
        ]
    return routes


# --- around every request --------------------------------------------------------------------------------------------


class _Guard:
    """Gives a request its id, asks for its token, counts it, and closes connections when the server ends."""

    def __init__(self, application: ASGIApp, service: Service) -> None:
        self._application, self._service = application, service
        self._prefix, self._numbers = secrets.token_hex(4), count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers, start = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._numbers):08x}"
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
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        bearers = self._service.reload_bearers if path == _RELOAD_PATH else self._service.bearers
        is_open = path in _OPEN_PATHS and scope["method"] in ("GET", "HEAD")
        if bearers is None or is_open or bearers.admits(headers.get("authorization", "")):
            return self._application
        return error_response(
            401, "a bearer token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


# --- the endpoints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Endpoints:
    service: Service
    asking: Page

    async def answer(self, request: Request) -> Response:
        """POST /v1/answer."""
        questions, many = await self._parsed(request, parse_questions)
        answerer = self.service.model.answerer
        rules = answerer.rules, answerer.pipeline_rules
        found = await self._found(request, [question.asked(*rules) for question in questions])
        told = [
            {**({} if one.id is None else {"id": one.id}), "error": one_line(answers)}
            if isinstance(answers, InputError)
            else one.told(answers.answers)
            for one, answers in zip(questions, found, strict=True)
        ]
        if not many and isinstance(found[0], InputError):
            raise found[0]
        return json_response(told if many else told[0], headers=timing(found))

    async def pipeline(self, request: Request) -> Response:
        """POST / and /models/NAME, as the Hugging Face inference API."""
        asked = await self._parsed(request, parse_pipeline)
        name = self.service.model.name  # of the one that answers: another could come while the body did
        if request.path_params.get("name", name) != name:
            raise HTTPException(404, "this server has another model: /v1/model says which")
        found = await self._found(request, [asked.asked()])
        [answered] = _all_answered(found)
        return json_response(asked.told(answered.answers), headers=timing(found))

    async def page(self, _: Request) -> Response:
        """GET /."""
        return Response(self.asking.body, headers=self.asking.headers)

    async def v2_server(self, _: Request) -> Response:
        return json_response(protocol.server_metadata())

    async def v2_model(self, request: Request) -> Response:
        _refuse_other_model(request)
        return json_response(protocol.model_metadata())

    async def v2_model_readiness(self, request: Request) -> Response:
        _refuse_other_model(request)
        ready = self.service.ready
        return json_response({"name": protocol.MODEL_NAME, "ready": ready}, 200 if ready else 503)

    async def v2_infer(self, request: Request) -> Response:
        """All questions of the request are answered, or none, as Triton has it."""
        _refuse_other_model(request)
        length = request.headers.get(protocol.JSON_LENGTH_HEADER)
        asked = await self._parsed(request, partial(protocol.parse_inference, json_length=length))
        found = await self._found(request, asked.asked(self.service.model.answerer.rules), asked.timeout_s)
        body, headers = asked.told([one.answers[0] for one in _all_answered(found)])
        return Response(body, headers={**headers, **timing(found)})

    async def health(self, _: Request) -> Response:
        return json_response({"alive": True})

    async def readiness(self, _: Request) -> Response:
        return json_response({"ready": self.service.ready}, 200 if self.service.ready else 503)

    async def model(self, _: Request) -> Response:
        return json_response(self.service.model.facts)

    async def reload(self, request: Request) -> Response:
        """POST /v1/reload."""
        if self.service.reload is None or self.service.reload_bearers is None:
            raise HTTPException(404, "this server is not reloaded over HTTP: --reload-token-file allows it")
        if await _body(request):
            raise InputError("a reload takes no body: it opens the path that the server was started with")
        self._refuse_early()
        return json_response(await self.service.reload())

    async def metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.page(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        secured, prefix = self.service.bearers is not None, request.scope.get("root_path", "")
        return json_response(openapi(self.service.model.name, secured=secured, prefix=prefix))

    async def _parsed(self, request: Request, parse: Callable[[bytes], Parsed]) -> Parsed:
        """What a body asks; parsed in a thread where it is large, since that takes a while."""
        self._refuse_early()
        try:
            async with asyncio.timeout(self.service.timeout_s):
                body = await _body(request)
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        try:
            return parse(body) if len(body) <= _SMALL_BYTES else await asyncio.to_thread(parse, body)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {brief(error)}") from error

    def _refuse_early(self) -> None:
        if not self.service.warmed:
            raise UnavailableError("this server starts: ask again in a moment")

    async def _found(
        self, request: Request, asked: Sequence[Asked], within_s: float | None = None
    ) -> list[Answered | InputError]:
        """An answer to each, or what is wrong with it. One that hangs up meanwhile leaves the line."""
        timeout_s = min(self.service.timeout_s, within_s or math.inf)
        futures = self.service.model.batcher.ask(asked, timeout_s)
        answers = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait((answers, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
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


def _all_answered(found: Sequence[Answered | InputError]) -> list[Answered]:
    """All of them; raises the InputError of one that is none, with its number where there are several."""
    for number, one in enumerate(found, start=1):
        if isinstance(one, InputError):
            raise InputError(f"question {number} of {len(found)}: {one}") if len(found) > 1 else one
    return [one for one in found if isinstance(one, Answered)]


def _refuse_other_model(request: Request) -> None:
    model = request.path_params["model"], request.path_params.get("version", protocol.MODEL_VERSION)
    if model != (protocol.MODEL_NAME, protocol.MODEL_VERSION):
        raise HTTPException(404, f"this server has the model {protocol.MODEL_NAME}, version {protocol.MODEL_VERSION}")
