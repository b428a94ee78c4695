"""The true Python API of TensorRT on a machine without TensorRT or a GPU: names and types that run nothing.

    bindings = true_bindings("11.4.0.106", default_cache())
    bindings.environment()        # for a process that imports `tensorrt`, or runs mypy over what does

The libraries of TensorRT are gigabytes and are not on the package index; the wheel with its compiled Python bindings is
one megabyte and is. It links against three libraries, of which it wants nine functions when it is loaded: empty ones
that return NULL are compiled here. Enums, classes, docstrings and signatures are then the true ones, and making a
Builder, Runtime or OnnxParser raises. Type stubs are made from the docstrings (`stubs`). Of TensorRT for RTX, whose
libraries are on the package index, there are stubs of the version that is installed, for both module names.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from densepack_runtime.host.flavours import EXTRAS, installed_version
from densepack_runtime.host.folders import new_folder
from tests.tensorrt_api.sources import REPOSITORY

DATACENTER_VERSIONS = ("10.16.1.11", "11.4.0.106")
RTX = "tensorrt_rtx"
"""Stands for the version of tensorrt-rtx that is installed."""
VERSIONS = (*DATACENTER_VERSIONS, RTX)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# What the bindings of TensorRT 10 and 11 import from these libraries. One that is missing here names itself when the
# bindings are loaded: "undefined symbol".
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
CACHE_VARIABLE = "DENSEPACK_TENSORRT_API_CACHE"
LAYOUT = 3  # raise it when the folders are made otherwise, so that cached ones are made anew
INSTALL_SECONDS = 90
CONNECT_SECONDS = 10  # for each of two tries of pip
MAKE_SECONDS = 120  # compiling takes a second, generating the stubs two


class BindingsUnavailable(RuntimeError):  # noqa: N818 a state of this machine, not a fault: tests skip on it
    """The bindings cannot be had on this machine; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Bindings:
    """Folders for PYTHONPATH (package `tensorrt`; empty for RTX) and for MYPYPATH (its stubs)."""

    version: str
    python_path: Path
    mypy_path: Path

    @property
    def module(self) -> str:
        """The compiled module that everything is in."""
        return "tensorrt_rtx_bindings.tensorrt_rtx" if self.version == RTX else "tensorrt_bindings.tensorrt"

    @property
    def stub(self) -> Path:
        return self.mypy_path.joinpath(*self.module.split(".")).with_suffix(".pyi")

    def environment(self) -> dict[str, str]:
        """This process's environment with both folders put first."""
        folders = {"PYTHONPATH": self.python_path, "MYPYPATH": self.mypy_path}
        present = {name: os.environ.get(name) for name in folders}
        first = {name: os.pathsep.join(filter(None, [str(folders[name]), present[name]])) for name in folders}
        return {**os.environ, **first}


def default_cache() -> Path:
    """The folder of DENSEPACK_TENSORRT_API_CACHE, else one in the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen).absolute() if chosen else user_cache / "densepack" / "tensorrt-api"


def true_bindings(version: str, cache: Path) -> Bindings:
    """The bindings of one of VERSIONS, made on first use and kept in `cache`; processes may ask at the same time.

    Raises BindingsUnavailable; RuntimeError where the bindings are here and what was made of them is of no use.
    """
    made_from = f"{RTX}-{_installed_rtx()}" if version == RTX else version
    folder = cache / f"{made_from}-{sys.implementation.cache_tag}-{platform.machine()}-{LAYOUT}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BindingsUnavailable(f"cannot write to {cache}: {error}; set {CACHE_VARIABLE}") from error
    with FileLock(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            with new_folder(folder) as temporary:
                _fill(bindings_at(temporary, version))
    return bindings_at(folder, version)


def bindings_at(folder: Path, version: str) -> Bindings:
    return Bindings(version, folder / "python", folder / "typings")


def _installed_rtx() -> str:
    version = installed_version("tensorrt-rtx")
    if not version:
        raise BindingsUnavailable(f"tensorrt-rtx is not installed: pip install 'densepack[{EXTRAS['tensorrt-rtx']}]'")
    return version


def _fill(made: Bindings) -> None:
    """Both folders of `made`, proven by importing the module."""
    if made.version != RTX:
        _fill_python_path(made)
    stubs = [sys.executable, "-m", "tests.tensorrt_api.stubs", made.module, str(made.mypy_path)]
    _run(stubs, environment=made.environment())
    _write(made.stub.parent / "__init__.pyi", "")
    for name in {"tensorrt", made.stub.stem}:  # our sources take the types of both flavours from `tensorrt`
        _write(made.mypy_path / name / "__init__.pyi", _MODULE_STUB.format(module=made.module))


def _fill_python_path(made: Bindings) -> None:
    compiler, major = (
        _compiler(),
        int(made.version.partition(".")[0]),
    )  # before the download, so that it is said at once
    _install(f"tensorrt-cu{13 if major >= 11 else 12}-bindings=={made.version}", made.python_path)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS), encoding="utf-8")
        for library in LIBRARIES:
            file = f"lib{library}.so.{major}"
            output = str(made.python_path / "tensorrt_bindings" / file)
            _run([*compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", output, str(source)])
    _write(made.python_path / "tensorrt" / "__init__.py", _MODULE)
    _write(made.python_path / "tensorrt_libs" / "__init__.py", _NO_LIBRARIES)


_MODULE = '''"""The true bindings over libraries that do nothing."""

from tensorrt_bindings import *
from tensorrt_bindings import __version__
'''
_NO_LIBRARIES = (
    '"""Keeps the libraries of an installed TensorRT out: the bindings import this package if there is one."""\n'
)
_MODULE_STUB = """# mypy: ignore-errors
from collections.abc import Iterable

from {module} import *

__version__: str

def volume(iterable: Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type: ...
"""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _compiler() -> list[str]:
    """The C compiler's command. The bindings are for Linux alone."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if not sys.platform.startswith("linux") or not shutil.which(command[0]):
        raise BindingsUnavailable(f"a C compiler on Linux is needed; {command[0]} on {sys.platform} is none")
    return command


def _install(requirement: str, folder: Path) -> None:
    """Unpack the wheel for this Python. Raises BindingsUnavailable with what pip says."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    bounds = ["--timeout", str(CONNECT_SECONDS), "--retries", "1"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, *bounds, "-t", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BindingsUnavailable(f"pip did not download {requirement} in {INSTALL_SECONDS} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        this = f"{platform.python_implementation()} {platform.python_version()} on {platform.machine()}"
        raise BindingsUnavailable(f"no wheel of {requirement} for {this}, or no package index: {' '.join(said)}")


def _run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
    """Raise RuntimeError with the output of a command that fails: the bindings are here, so this is a fault."""
    try:
        subprocess.run(
            command, cwd=REPOSITORY, env=environment, check=True, timeout=MAKE_SECONDS, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{error}\n{error.stdout}{error.stderr}") from error
