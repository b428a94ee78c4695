"""The true bindings are made once, whole or not at all, and say why where they cannot be had."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt_api import bindings
from tests.tensorrt_api.bindings import (
    CACHE_VARIABLE,
    DATACENTER_VERSIONS,
    RTX,
    Bindings,
    BindingsUnavailable,
    bindings_at,
    default_cache,
    make_bindings,
    true_bindings,
)
from tests.tensorrt_api.fixtures import FindBindings
from tests.tensorrt_api.sources import REPOSITORY
from tests.tensorrt_api.stub_repair import repaired_stub

VERSION = "11.4.0.106"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a compiler and the generator were here."""
    monkeypatch.setattr(bindings, "_checked_compiler", lambda version: ["cc"])


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.usefixtures("tools", "no_index")
def test_without_an_index_the_reason_is_what_pip_says(tmp_path: Path) -> None:
    with pytest.raises(
        BindingsUnavailable, match=f"no wheel of tensorrt-cu13-bindings=={VERSION} for .*no package index"
    ):
        true_bindings(VERSION, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tools", "no_index")
def test_bindings_of_10_are_those_for_cuda_12(tmp_path: Path) -> None:
    with pytest.raises(BindingsUnavailable, match="tensorrt-cu12-bindings==10.16.1.11"):
        true_bindings("10.16.1.11", tmp_path)


@pytest.mark.usefixtures("tools")
def test_a_download_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "DOWNLOAD_SECONDS", 0.01)
    with pytest.raises(BindingsUnavailable, match=r"did not download .* in 0.01 s"):
        true_bindings(VERSION, tmp_path)


@pytest.mark.parametrize(
    ("chosen", "named"), [("", "cc or gcc or clang is not on PATH"), ("icc -m64", "icc is not on")]
)
def test_no_compiler(chosen: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", chosen)
    with pytest.raises(BindingsUnavailable, match=f"no C compiler: {named}"):
        true_bindings(VERSION, tmp_path / "cache")


def test_no_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BindingsUnavailable, match="pybind11-stubgen is not installed: pip install"):
        true_bindings(VERSION, tmp_path)


def test_stubs_of_rtx_need_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("CC", "no-such-compiler")
    assert bindings._checked_compiler(RTX) == []


def test_without_rtx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "installed_version", lambda flavour: "")
    with pytest.raises(BindingsUnavailable, match=r"tensorrt-rtx is not installed: pip install 'densepack\[rtx\]'"):
        true_bindings(RTX, tmp_path)


def test_another_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BindingsUnavailable, match="on Linux only; this is darwin"):
        true_bindings(VERSION, tmp_path)


@pytest.mark.usefixtures("tools")
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BindingsUnavailable, match=f"cannot write to .*; set {CACHE_VARIABLE}"):
        true_bindings(VERSION, tmp_path / "file")


def fill_with(monkeypatch: pytest.MonkeyPatch, *, first: Path | None = None, error: Exception | None = None) -> None:
    """Make bindings of one file; another process is `first`, or an `error` comes in the middle."""

    def fill(made: Bindings, compiler: list[str]) -> None:
        (made.python_path / "tensorrt").mkdir(parents=True)
        if error is not None:
            raise error
        if first is not None:
            (first / "python" / "theirs").mkdir(parents=True)

    monkeypatch.setattr(bindings, "_fill", fill)


@pytest.mark.usefixtures("tools")
def test_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_with(monkeypatch)
    made = true_bindings(VERSION, tmp_path)
    assert (made.python_path / "tensorrt").is_dir()
    fill_with(monkeypatch, error=AssertionError("made twice"))
    assert true_bindings(VERSION, tmp_path) == made
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("tools")
def test_another_process_that_was_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made"
    fill_with(monkeypatch, first=folder)
    made = make_bindings(VERSION, folder)
    assert [path.name for path in made.python_path.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("tools")
def test_nothing_is_left_of_half_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_with(monkeypatch, error=RuntimeError("half"))
    with pytest.raises(RuntimeError, match="half"):
        true_bindings(VERSION, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert default_cache() == tmp_path / "user" / "densepack" / "tensorrt-api"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "densepack" / "tensorrt-api"


def test_environment_puts_the_folders_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("MYPYPATH", raising=False)
    environment = bindings_at(tmp_path, VERSION).environment()
    assert environment["PYTHONPATH"] == f"{tmp_path / 'python'}{os.pathsep}mine"
    assert environment["MYPYPATH"] == str(tmp_path / "typings")


@pytest.mark.usefixtures("no_index")
def test_command_line_says_the_reason_and_refuses_a_folder_that_exists(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tensorrt_api.bindings", VERSION]
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True, "timeout": 60, "check": False}
    refused = subprocess.run([*command, str(tmp_path)], **options)  # type: ignore[call-overload]
    assert refused.returncode == 2
    assert f"{tmp_path} exists" in refused.stderr
    failed = subprocess.run([*command, str(tmp_path / "new")], **options)  # type: ignore[call-overload]
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")


@pytest.mark.parametrize("version", DATACENTER_VERSIONS)
def test_bindings_import_and_build_nothing(version: str, tensorrt_bindings: FindBindings) -> None:
    code = "import tensorrt as trt\nprint(trt.__version__)\ntrt.Builder(trt.Logger())"
    environment = tensorrt_bindings(version).environment()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == version
    assert done.returncode == 1
    assert "factory function returned nullptr" in done.stderr


STUB = """\
from __future__ import annotations
import typing
class Dims:
    keep: bool
class IDebugListener:
    def process_debug_tensor(self, name: str, stream: typing.SupportsInt) -> None:
        ...
class IHostMemory:
    def size(self: Other, in: Dims, shift: Weights = None, flag: bool, axis: int = 1, *args) -> bool:
        ...
def f(value: collections.abc.Callable[[int], bool] = ...) -> list[Dims]:
    ...
bool: DataType
"""
REPAIRED = """\
# mypy: ignore-errors
from __future__ import annotations
import builtins
import typing
class Dims:
    def __iter__(self) -> collections.abc.Iterator[int]: ...
    keep: builtins.bool
class IDebugListener:
    def process_debug_tensor(self, name: str, stream: int) -> builtins.bool:
        ...
class IHostMemory:
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def size(self, in_: Dims | collections.abc.Sequence[int], shift: Weights | None = None, flag: builtins.bool = ..., \
axis: int = 1, *args) -> builtins.bool:
        ...
def f(value: collections.abc.Callable[[int], builtins.bool] = ...) -> list[Dims]:
    ...
bool: DataType
"""


def test_stub_is_repaired() -> None:
    assert repaired_stub(STUB) == REPAIRED


def test_stub_that_cannot_be_repaired_is_said() -> None:
    with pytest.raises(RuntimeError, match=r"does not parse, .*: def f\(:"):
        repaired_stub("import typing\ndef f(:\n")
