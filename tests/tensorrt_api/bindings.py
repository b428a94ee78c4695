"""The true Python API of TensorRT on a machine without TensorRT or a GPU: names and types that run nothing.

    python -m tests.tensorrt_api.bindings 11.4.0.106 OUT
    PYTHONPATH=OUT/python python -c "import tensorrt as trt; help(trt.IExecutionContext)"
    MYPYPATH=OUT/typings mypy ...

The libraries of TensorRT are gigabytes and are not on the package index; the wheel with its compiled Python bindings is
one megabyte and is. It links against three libraries, of which it wants nine functions when it is loaded: empty ones
that return NULL are compiled here. Enums, classes, docstrings and signatures are then the true ones, and making a
Builder, Runtime or OnnxParser raises. Type stubs are generated from the docstrings and repaired. Of TensorRT for RTX,
whose libraries are on the package index, there are stubs of the version that is installed, for both module names.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.host.flavours import EXTRAS, installed_version
from tests.tensorrt_api.stub_repair import repaired_stub

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
LAYOUT = 2  # raise it when the folders are made otherwise, so that cached ones are made anew
DOWNLOAD_SECONDS = 90
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
    if chosen:
        return Path(chosen).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "densepack" / "tensorrt-api"


def true_bindings(version: str, cache: Path) -> Bindings:
    """The bindings of one of VERSIONS, made on first use and kept in `cache`; processes may ask at the same time.

    Raises BindingsUnavailable; RuntimeError where the bindings are here and what was made of them is of no use.
    """
    made_from = f"{RTX}-{_installed_rtx()}" if version == RTX else version
    folder = cache / f"{made_from}-{sys.implementation.cache_tag}-{platform.machine()}-{LAYOUT}"
    return bindings_at(folder, version) if folder.is_dir() else make_bindings(version, folder)


def _installed_rtx() -> str:
    version = installed_version("tensorrt-rtx")
    if not version:
        raise BindingsUnavailable(f"tensorrt-rtx is not installed: pip install 'densepack[{EXTRAS['tensorrt-rtx']}]'")
    return version


def bindings_at(folder: Path, version: str) -> Bindings:
    return Bindings(version, folder / "python", folder / "typings")


def make_bindings(version: str, folder: Path) -> Bindings:
    """Make them in a temporary neighbour, renamed last. Another process's result that came first is taken as it is."""
    compiler = _checked_compiler(version)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise BindingsUnavailable(f"cannot write to {folder.parent}: {error}; set {CACHE_VARIABLE}") from error
    try:
        _fill(bindings_at(temporary, version), compiler)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bindings_at(folder, version)


def _checked_compiler(version: str) -> list[str]:
    """The C compiler's command ([] for RTX); before the download, so that what is missing is said at once."""
    if importlib.util.find_spec("pybind11_stubgen") is None:
        raise BindingsUnavailable("pybind11-stubgen is not installed: pip install 'densepack[test]'")
    if version == RTX:
        return []
    if not sys.platform.startswith("linux"):
        raise BindingsUnavailable(f"the bindings of TensorRT are used on Linux only; this is {sys.platform}")
    chosen = shlex.split(os.environ.get("CC", ""))
    candidates = [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    raise BindingsUnavailable(f"no C compiler: {' or '.join(command[0] for command in candidates)} is not on PATH")


def _fill(made: Bindings, compiler: Sequence[str]) -> None:
    """Both folders of `made`, proven by importing the module."""
    if made.version != RTX:
        _fill_python_path(made, compiler)
    _make_stubs(made)


def _fill_python_path(made: Bindings, compiler: Sequence[str]) -> None:
    major = int(made.version.partition(".")[0])
    package = made.python_path / "tensorrt_bindings"
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _downloaded_wheel(made.version, major, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(made.python_path)
        source = Path(scratch) / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS), encoding="utf-8")
        for library in LIBRARIES:
            file = f"lib{library}.so.{major}"
            output = str(package / file)
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
import builtins
import collections.abc

from {module} import *

__version__: builtins.str

def volume(iterable: collections.abc.Iterable[builtins.int]) -> builtins.int: ...
def nptype(trt_type: DataType) -> builtins.type: ...
"""


def _make_stubs(made: Bindings) -> None:
    output = ["-o", str(made.mypy_path), made.module]
    _run([sys.executable, "-m", "pybind11_stubgen", "--ignore-all-errors", *output], environment=made.environment())
    _write(made.stub, repaired_stub(made.stub.read_text(encoding="utf-8")))
    _write(made.stub.parent / "__init__.pyi", "")
    for name in {"tensorrt", made.stub.stem}:  # our sources take the types of both flavours from `tensorrt`
        _write(made.mypy_path / name / "__init__.pyi", _MODULE_STUB.format(module=made.module))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _downloaded_wheel(version: str, major: int, folder: Path) -> Path:
    """The bindings wheel for this Python. Raises BindingsUnavailable with what pip says."""
    requirement = f"tensorrt-cu{13 if major >= 11 else 12}-bindings=={version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    bounds = ["--timeout", str(CONNECT_SECONDS), "--retries", "1"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *bounds, "-d", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BindingsUnavailable(f"pip did not download {requirement} in {DOWNLOAD_SECONDS} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        this = f"{platform.python_implementation()} {platform.python_version()} on {platform.machine()}"
        raise BindingsUnavailable(f"no wheel of {requirement} for {this}, or no package index: {' '.join(said)}")
    return wheels[0]


def _run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
    """Raise RuntimeError with the output of a command that fails: the bindings are here, so this is a fault."""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=MAKE_SECONDS, check=False, errors="replace"
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bindings and stubs of a TensorRT version importable.")
    parser.add_argument("version", help="for example 11.4.0.106 or 10.16.1.11")
    parser.add_argument("out", type=Path, help="a folder that is made")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists")
    try:
        made = make_bindings(arguments.version, arguments.out.absolute())
    except BindingsUnavailable as error:
        sys.exit(f"error: {error}")
    print(f"PYTHONPATH={made.python_path}\nMYPYPATH={made.mypy_path}")


if __name__ == "__main__":
    main()
