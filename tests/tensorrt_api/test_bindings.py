"""The true bindings are made once, whole or not at all, and say why where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pybind11_stubgen.structs import Argument, Attribute, Class, Function, Identifier, Method, Module, Value

from tests.tensorrt_api import bindings
from tests.tensorrt_api.bindings import (
    CACHE_VARIABLE,
    DATACENTER_VERSIONS,
    RTX,
    Bindings,
    BindingsUnavailable,
    bindings_at,
    default_cache,
    true_bindings,
)
from tests.tensorrt_api.fixtures import FindBindings
from tests.tensorrt_api.stubs import PRINTER, repair

VERSION = "11.4.0.106"


def made_in(cache: Path) -> list[str]:
    """What was made there, with what is left of making it."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(("version", "package"), [(VERSION, "tensorrt-cu13"), ("10.16.1.11", "tensorrt-cu12")])
def test_without_an_index_the_reason_is_what_pip_says(
    version: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "_compiler", lambda: ["cc"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(BindingsUnavailable, match=f"no wheel of {package}-bindings=={version} for .*no package index"):
        true_bindings(version, tmp_path)
    assert made_in(tmp_path) == []


def test_a_download_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "_compiler", lambda: ["cc"])
    monkeypatch.setattr(bindings, "INSTALL_SECONDS", 0.01)
    with pytest.raises(BindingsUnavailable, match=r"did not download .* in 0.01 s"):
        true_bindings(VERSION, tmp_path)


@pytest.mark.parametrize(
    ("chosen", "system", "named"),
    [("", "linux", "cc on linux"), ("icc -m64", "linux", "icc on linux"), ("python3", "darwin", "python3 on darwin")],
)
def test_no_compiler(chosen: str, system: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", chosen)
    with pytest.raises(BindingsUnavailable, match=f"a C compiler on Linux is needed; {named} is none"):
        bindings._compiler()


def test_without_rtx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "installed_version", lambda flavour: "")
    with pytest.raises(BindingsUnavailable, match=r"tensorrt-rtx is not installed: pip install 'densepack\[rtx\]'"):
        true_bindings(RTX, tmp_path)


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BindingsUnavailable, match=f"cannot write to .*; set {CACHE_VARIABLE}"):
        true_bindings(VERSION, tmp_path / "file")


def test_made_once_and_half_a_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(made: Bindings) -> None:
        (made.python_path / "tensorrt").mkdir(parents=True)
        if fails:
            raise RuntimeError("half")

    monkeypatch.setattr(bindings, "_fill", fill)
    fails = True
    with pytest.raises(RuntimeError, match="half"):
        true_bindings(VERSION, tmp_path)
    assert made_in(tmp_path) == []
    fails = False
    made = true_bindings(VERSION, tmp_path)
    assert (made.python_path / "tensorrt").is_dir()
    fails = True
    assert true_bindings(VERSION, tmp_path) == made
    assert len(made_in(tmp_path)) == 1


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


@pytest.mark.parametrize("version", DATACENTER_VERSIONS)
def test_bindings_import_and_build_nothing(version: str, tensorrt_bindings: FindBindings) -> None:
    code = "import tensorrt as trt\nprint(trt.__version__)\ntrt.Builder(trt.Logger())"
    environment = tensorrt_bindings(version).environment()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == version
    assert done.returncode == 1
    assert "factory function returned nullptr" in done.stderr


def argument(name: str, annotation: str | None = None, default: str | None = None, *, rest: bool = False) -> Argument:
    told = None if annotation is None else Value(annotation)
    value = None if default is None else Value(default, is_print_safe=True)
    return Argument(Identifier(name), variadic=rest, default=value, annotation=told)


def test_stub_is_repaired() -> None:
    told = argument("self", "Other"), argument("in", "Dims"), argument("shift", "Weights", "None")
    size = Function(
        Identifier("size"), [*told, argument("flag", "bool"), argument("rest", rest=True)], returns=Value("bool")
    )
    called = Function(Identifier("process_debug_tensor"), [argument("stream", "typing.SupportsInt")], Value("None"))
    owners = [
        Class(Identifier(name), methods=[Method(function, None)])
        for name, function in (("IHostMemory", size), ("IDebugListener", called))
    ]
    module = Module(Identifier("trt"), classes=owners, attributes=[Attribute(Identifier("bool"), Value("DataType"))])
    repair(module)
    lines = [line.strip() for line in PRINTER.print_module(module)]
    assert [line for line in lines if line.startswith("def ")] == [
        "def __buffer__(self, flags: int) -> memoryview:",
        "def size(self, in_: Dims | collections.abc.Sequence[int], shift: Weights | None = None, flag: bool = ..., "
        "*rest) -> bool:",
        "def process_debug_tensor(stream: int) -> bool:",
    ]
    assert not any(line.startswith("bool") for line in lines)
