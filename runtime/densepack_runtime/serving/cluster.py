"""Ray: started on this host for one command, or a cluster that runs already.

    with cluster(None, cpus=4) as ray: ...

What is started here listens on loopback alone and only to who knows its token (every user of the host could run code
in it otherwise), has no dashboard, tells nobody of its use, and is gone with its processes and files when the block
ends.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from ipaddress import ip_address
from typing import Any

from densepack_runtime.errors import BackendError, require
from densepack_runtime.host.console import one_line

# What travels through Ray here are names of parts, and requests.
_OBJECT_STORE_BYTES = 1 << 28
_ANSWER_S = 10.0
# The first is Ray's switch for systems where it has no clusters.
_LOOPBACK_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected: to the cluster at an address, or to one with so many CPUs that is started here.

    Raises BackendError where there is none at the address. What Ray has to say goes to stderr.
    """
    with tempfile.TemporaryDirectory(prefix="densepack-ray-", ignore_cleanup_errors=True) as folder:
        ray = own_ray() if address is None else require("ray", "ray")
        own = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": folder}
        with redirect_stdout(sys.stderr):
            try:
                if address is None:
                    _connect(ray, "local", own)
                    _refuse_others(ray.get_runtime_context().gcs_address)
                else:
                    _refuse_silence(address)
                    _connect(ray, address, {})
                yield ray
            finally:
                ray.shutdown()


def own_ray() -> Any:
    """The module `ray`, which will start on loopback alone: what makes it do so has to be set before it is imported."""
    os.environ.update(_LOOPBACK_ALONE, RAY_AUTH_TOKEN=_token())
    return require("ray", "ray")


@cache
def _token() -> str:
    """Of this process, since Ray reads it once."""
    return secrets.token_hex(32)


def _refuse_silence(address: str) -> None:
    """Ray itself would ask for minutes whether anybody is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise BackendError(f"there is no Ray cluster at {address}, which must be HOST:PORT: {error}") from error


def _connect(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Connect, and keep what this process does at a signal: Ray has something of its own for that."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(f"Ray cannot be used at {address}: {one_line(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, ours)


def _refuse_others(listening: str) -> None:
    if not ip_address(listening.rpartition(":")[0].strip("[]")).is_loopback:
        raise BackendError(
            f"Ray listens at {listening}, which others can reach: densepack cannot keep this version of it in"
        )


def gpu_share(ray: Any, processes: int) -> float:
    """What of a GPU each process gets, so that all of them find room. Raises BackendError where there is none."""
    gpus: float = ray.cluster_resources().get("GPU", 0)
    if not gpus:
        raise BackendError("no host of the cluster has a GPU, and the backend needs one: ask for another --backend")
    return math.floor(1e4 / math.ceil(processes / gpus)) / 1e4  # Ray counts in steps of 0.0001
