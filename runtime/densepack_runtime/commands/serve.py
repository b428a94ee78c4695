"""The command `serve`: a bundle behind a port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Unpack

import typer

from densepack_runtime.commands.options import (
    BundleArgument,
    Opening,
    StrictOption,
    app,
    session_of,
    with_opening,
)
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import tell
from densepack_runtime.serving.batcher import MOST_TOKENS


@app.command("serve")
@with_opening(before="strict", precision="fastest")
def serve_bundle(
    bundle: BundleArgument,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    strict: StrictOption = False,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that answer at this port; threads and queue are divided.")
    ] = 1,
    lanes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Batches that a process runs at once, each with all its threads.",
            show_default="2 on OpenVINO with several threads, else 1",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Tokens that may wait; a request beyond them gets 429 and when to come again.")
    ] = MOST_TOKENS,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds after which a request gets 504 and is not computed.")
    ] = 30.0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Answer only who sends one of these bearer tokens, one a line.", show_default=False
        ),
    ] = None,
    reload_token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let who sends one of these bearer tokens reload the bundle: POST /v1/reload.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve HTTPS with this certificate chain (PEM).", show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate's private key (PEM, unencrypted).", show_default=False),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Listen beyond this host without --token-file.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Serve replicas on Ray Serve, on this host.")] = False,
    ray_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --ray: YAML with num_replicas, autoscaling_config, ray_actor_options and so on.",
            show_default=False,
        ),
    ] = None,
    **opening: Unpack[Opening],
) -> None:
    """Answer over HTTP until SIGTERM; requests that come together are computed together. SIGHUP reloads the bundle.

    Example: densepack serve bundle --port 8000
    """
    for package in ("starlette", "uvicorn", "prometheus_client"):
        require(package, "serve")
    from densepack_runtime.parity.proving import refuse_wrong
    from densepack_runtime.serving.options import ServerOptions
    from densepack_runtime.serving.start import serve

    options = ServerOptions(
        host=host,
        port=port,
        backend=opening["backend"],
        precision=opening["precision"],
        session=session_of(opening),
        strict=strict,
        most_tokens=queue,
        timeout_s=timeout_s,
        token_file=token_file,
        reload_token_file=reload_token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        open_to_all=open_to_all,
        workers=workers,
        lanes=lanes,
    )
    if ray:
        from densepack_runtime.serving.ray_application import read_settings, serve_on_ray

        serve_on_ray(bundle, options, read_settings(ray_config), tell)
    elif ray_config is not None:
        raise InputError(f"{ray_config} is for Ray Serve, which was not asked for: add --ray")
    else:
        serve(bundle, options, refuse_wrong, tell)
