"""densepack inside a FastAPI application of yours: its endpoints below /qa, and one of your own beside them.

    pip install 'densepack[openvino,serve]' fastapi
    BUNDLE=demo/bundle uvicorn --app-dir examples --factory in_fastapi:from_environment
    curl http://127.0.0.1:8000/qa/v1/answer -d '{"question": "Who built it?", "context": "It was built by Anna Berg."}'

In Starlette it is Mount("/qa", application_of(service)), and the same lifespan. One process has one model: with several
workers of uvicorn each has its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions


def application(bundle: Path, options: ServerOptions) -> FastAPI:
    """The application; the model is opened with it, warmed before it takes requests, and closed when it ends."""
    metrics = Metrics()
    model = Model.open(bundle, options, metrics, lambda error: service.give_up(error))
    service = Service(model, metrics, timeout_s=options.timeout_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(model.warm)
        service.warmed = True
        yield
        service.ending = True
        model.close()

    app = FastAPI(lifespan=lifespan)
    app.mount("/qa", application_of(service))

    @app.get("/about")
    def about() -> dict[str, str]:
        return {"model": model.name}

    return app


def from_environment() -> FastAPI:
    """What uvicorn calls."""
    return application(Path(os.environ["BUNDLE"]), ServerOptions())
