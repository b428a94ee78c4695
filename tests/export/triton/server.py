"""A real Triton server on 127.0.0.1 for tests, from the wheel of pytriton.

DENSEPACK_TRITON names a virtual environment of Python 3.11 with `nvidia-pytriton==0.7.0`, `numpy<2`, `onnxruntime`,
`tokenizers`, `msgspec` and `tritonclient[http,grpc]==2.69.0`; docs/triton.md has the commands.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from tests.conftest import REPOSITORY

VARIABLE = "DENSEPACK_TRITON"
READY_SECONDS, STOP_SECONDS = 90, 30


@dataclass(frozen=True, slots=True)
class Triton:
    """An installation: its environment, and a folder of backends."""

    environment: Path
    backends: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def packages(self) -> Path:
        return self.environment / "lib" / "python3.11" / "site-packages"

    def command(self, repository: Path, http: int, grpc: int, *flags: str) -> list[str]:
        return [
            str(self.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={self.backends}",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc}",
            "--allow-metrics=false",
            *flags,
        ]

    @property
    def surroundings(self) -> dict[str, str]:
        """The stub embeds the Python that it finds on the PATH, with its packages; it reads no PYTHONPATH."""
        path = f"{self.environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(self.packages / "nvidia_pytriton.libs")}


def named_environment() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else None


def installed_triton(environment: Path, backends: Path) -> Triton:
    """The installation with its Python backend, and stand-ins for others, made in a folder of their own."""
    triton = Triton(environment, backends)
    theirs = triton.packages / "pytriton" / "tritonserver"
    shutil.copytree(theirs / "backends" / "python", triton.backends / "python")
    stub = "triton_python_backend_stub"
    shutil.copy(theirs / "python_backend_stubs" / "3.11" / stub, triton.backends / "python" / stub)
    # As if it were installed: this folder is on the path of every model.
    (triton.backends / "python" / "densepack_runtime").symlink_to(REPOSITORY / "runtime" / "densepack_runtime")
    for name in ("onnxruntime", "tensorrt"):
        (triton.backends / name).mkdir()
        shutil.copy(Path(__file__).with_name("stand_in_backend.py"), triton.backends / name / "model.py")
    return triton


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    http: int
    grpc: int


class RefusedError(Exception):
    """The server ended instead of becoming ready; the message is its log."""


@contextmanager
def running(triton: Triton, repository: Path, log: Path, *flags: str) -> Iterator[Server]:
    """A server that is ready, stopped afterwards. Raises RefusedError when it ends before."""
    http, grpc = free_port(), free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            triton.command(repository, http, grpc, *flags), env=triton.surroundings, stdout=out, stderr=out
        )
    try:
        wait_until_ready(process, http, log)
        yield Server(http, grpc)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RefusedError(log.read_text(errors="replace"))
        with (
            suppress(URLError, ConnectionError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"not ready after {READY_SECONDS} s: {log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
