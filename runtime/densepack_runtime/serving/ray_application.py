"""The server's application on Ray Serve: replicas of one bundle behind one port, here or in a cluster.

    serve_on_ray(Path("bundle"), options, settings, tell=print)    # densepack serve BUNDLE --ray
    import_path: densepack_runtime.serving.ray_application:application    # of a file for `serve deploy`

A replica is the ASGI application of `serving.application` around a batcher of its own, with as many threads as Ray
gives it CPUs. Ray's proxy hands each request to one of them; when one dies it is started again, and what it had taken
gets a 500.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from densepack_runtime.backends import AskedPrecision
from densepack_runtime.errors import BackendError, InputError, joined, require
from densepack_runtime.host.console import one_line
from densepack_runtime.host.records import Document
from densepack_runtime.host.strict_json import read_small
from densepack_runtime.serving.application import Service, application_of
from densepack_runtime.serving.batcher import MOST_TOKENS
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.cluster import cluster, gpu_share, own_ray
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.model import Model, chosen
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.responses import error_response
from densepack_runtime.serving.server import GRACE_S, refuse_broken, service_of
from densepack_runtime.serving.start import address_of, listening
from densepack_runtime.serving.tls import Certificate
from densepack_runtime.sessions.options import SessionOptions

ARGUMENTS = Document("args", InputError, "docs/serving.md has those of an application on Ray Serve")
NAME = "densepack"
# Of one replica: what its batcher has, and what then waits in front of it. Its own bound is that of the queue.
MOST_REQUESTS = 256
_LOOK_S, _SETTLE_S = 0.02, 0.5


@dataclass(frozen=True, slots=True)
class Served:
    """What each replica opens, and how: the `args` of an application. `queue` is the tokens that may wait."""

    bundle: str
    backend: str = "auto"
    precision: AskedPrecision | None = "fastest"
    strict: bool = False
    cuda_graphs: bool = True
    cache: str | None = None
    queue: int = MOST_TOKENS
    timeout_s: float = 30.0
    token_file: str | None = None


class Replica:
    """One process of Ray Serve, ready when it has been made."""

    def __init__(self, served: Served) -> None:
        ray = require("ray", "ray")
        if ip_address(ray.util.get_node_ip_address()).is_loopback:
            _stay_on_loopback()
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
        threads = max(1, int(cpus)) if cpus else None
        cache = None if served.cache is None else Path(served.cache)
        self._service = _opened(served, SessionOptions(threads, served.cuda_graphs, cache))
        self._door = _Door(application_of(self._service))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._door

    def check_health(self) -> None:
        """Ray starts another replica where this raises."""
        refuse_broken(self._service)

    async def end(self) -> None:
        """Go on for a moment as one that is not ready any more, then take nothing, and return when all is answered."""
        self._service.ending = True
        await asyncio.sleep(GRACE_S)
        self._door.closed = True
        while self._door.inside:
            await asyncio.sleep(_LOOK_S)


class _Door:
    """In front of an application: knows how many requests are inside; closed, it lets none in."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self.inside, self.closed = 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if self.closed:
            headers = {"Connection": "close", "Retry-After": "1"}
            await error_response(503, "this server ends: ask another one", headers)(scope, receive, send)
            return
        self.inside += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self.inside -= 1


def _stay_on_loopback() -> None:
    """Every replica opens a port for other replicas on all addresses, and unpickles what comes there.

    In a Ray that is on loopback alone, none of the ports of this process may be reached from elsewhere.
    """
    from grpc.aio._server import Server  # what grpc.aio.server() makes; the face of grpc has its base alone

    bind = Server.add_insecure_port
    Server.add_insecure_port = lambda server, address: bind(server, f"127.0.0.1:{address.rpartition(':')[2]}")


def _opened(served: Served, session: SessionOptions) -> Service:
    """The service of a bundle, warmed; it is open as long as this process."""
    options = ServerOptions(
        backend=served.backend,
        precision=served.precision,
        session=session,
        strict=served.strict,
        most_tokens=served.queue,
        timeout_s=served.timeout_s,
        token_file=None if served.token_file is None else Path(served.token_file),
    )
    metrics = Metrics()
    model = Model.open(served.bundle, options, metrics, lambda error: service.give_up(error))
    service = service_of(model, metrics, options)
    model.warm()
    service.warmed = True
    return service


def application(args: Mapping[str, Any]) -> Any:
    """The Serve application that `args`, the fields of `Served`, ask for; `serve deploy` and `serve run` call this.

    How many replicas, on what CPUs and GPUs, is Ray's: `deployments` of the file. Raises InputError.
    """
    return bound(ARGUMENTS.record(dict(args), Served), {})


def bound(served: Served, settings: Mapping[str, Any]) -> Any:
    """The same with settings of the deployment. Raises InputError for what Ray Serve does not know."""
    serve = require("ray.serve", "ray")
    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=MOST_REQUESTS,
        max_queued_requests=MOST_REQUESTS,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=math.ceil(served.timeout_s) + 1,
    )(serve.ingress()(Replica))
    try:
        return deployment.options(**settings).bind(served)
    except (TypeError, ValueError) as error:
        raise InputError(f"Ray Serve refuses the settings {dict(settings)}: {one_line(error)}") from error


# --- here ------------------------------------------------------------------------------------------------------------


def serve_on_ray(
    bundle: str | Path, options: ServerOptions, settings: Mapping[str, Any], tell: Callable[[str], None]
) -> None:
    """Serve a bundle on a Ray of its own until a signal; `settings` are those of the deployment.

    At SIGTERM or SIGINT the replicas answer what they have taken, and everything ends; a second signal ends it at once.
    Raises what `serve` raises, and BackendError where the replicas do not start.
    """
    if options.workers > 1 or options.reload_token_file is not None:
        raise InputError(
            "--workers and --reload-token-file are of the server without --ray: Ray has replicas, and "
            "brings another bundle where the application is deployed anew"
        )
    Bearers.read(options.token_file)
    certificate = Certificate.read(options.tls_cert, options.tls_key)
    opened, choice = chosen(bundle, options)
    with listening(options) as listener:
        host, port = listener.getsockname()[:2]  # free, and Ray takes it again
        address = address_of(options, listener)
    served = Served(
        str(opened.folder.absolute()),
        choice.backend,
        choice.precision,
        options.strict,
        options.session.cuda_graphs,
        _absolute(options.session.cache),
        options.most_tokens,
        options.timeout_s,
        _absolute(options.token_file),
    )
    replicas = most_replicas(settings)
    each = {"num_cpus": max(1, options.session.cpu_threads // replicas), **settings.get("ray_actor_options", {})}
    with cluster(None, cpus=max(options.session.cpu_threads, math.ceil(replicas * each["num_cpus"]))) as ray:
        if choice.on_gpu:
            each = {"num_gpus": gpu_share(ray, replicas), **each}
        asked = bound(served, {**settings, "ray_actor_options": each})
        http = {"host": host, "port": port, "keep_alive_timeout_s": 75}
        if certificate:
            http |= {"ssl_certfile": str(certificate.chain), "ssl_keyfile": str(certificate.key)}
        with _signals() as signalled:
            tell(f"backend {choice}; {replicas} replicas at most, {each['num_cpus']} CPUs each")
            handle = _run(asked, http)
            tell(f"ready: {address}")
            signalled.wait()
            _end(ray, handle, served.timeout_s)
    tell("ended: everything that was taken is answered")


def read_settings(path: Path | None) -> dict[str, Any]:
    """The settings of a deployment from a YAML file, as `deployments` of `serve deploy` has them; {} without one.

    Raises InputError for what cannot be read, and what Ray's own schema refuses.
    """
    if path is None:
        return {}
    own_ray()
    yaml, schema = require("yaml", "ray"), require("ray.serve.schema", "ray")
    try:
        settings: dict[str, Any] = yaml.safe_load(read_small(path))
        schema.DeploymentSchema(**{"name": NAME, **settings})
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} has no settings of a deployment on Ray Serve: {one_line(error)}") from error
    if unknown := settings.keys() - schema.DeploymentSchema.model_fields.keys():
        raise InputError(
            f"{path} has no settings of a deployment on Ray Serve: unknown: {joined(sorted(unknown), ', ')}"
        )
    return settings


def most_replicas(settings: Mapping[str, Any]) -> int:
    """Of the settings of a deployment. Raises InputError."""
    told = (settings.get("autoscaling_config") or {}).get("max_replicas", settings.get("num_replicas", 1))
    if not isinstance(told, int) or told < 1:
        raise InputError(
            f"the number of replicas must be 1 or more, it is {told!r}: autoscaling_config has max_replicas"
        )
    return told


def _run(application: Any, http: Mapping[str, Any]) -> Any:
    """Start the proxy and the replicas, and give the handle of these."""
    serve = require("ray.serve", "ray")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    try:
        serve.start(proxy_location="HeadOnly", http_options=dict(http), logging_config=quiet)
        return serve.run(application, name=NAME, logging_config=quiet)
    except RuntimeError as error:
        raise BackendError(f"Ray Serve cannot start the replicas: {one_line(error)[-400:]}") from error


def _end(ray: Any, handle: Any, timeout_s: float) -> None:
    """Return when the replicas have answered what they have taken, and the proxy has passed it on."""
    try:
        handle.broadcast("end").results(timeout_s=timeout_s + GRACE_S + _SETTLE_S)
    except (TimeoutError, ray.exceptions.RayError) as error:
        raise BackendError(f"a replica did not answer all that it had taken: {one_line(error)[-200:]}") from error
    time.sleep(_SETTLE_S)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """What the first SIGTERM or SIGINT sets. The second does what it did before."""
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def once(*_: object) -> None:
        asked.set()
        restore()

    for number in before:
        signal.signal(number, once)
    try:
        yield asked
    finally:
        restore()


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
