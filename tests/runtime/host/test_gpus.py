"""What the driver says about GPUs, and what is said where there is none."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.host import gpus
from densepack_runtime.host.gpus import Gpu, nvidia_gpus

SCRIPT = Path(gpus.__file__)


class FakeDriver:
    """libcuda with two GPUs; `fails` names a call that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name == self.fails:
                return 100
            values = {"cuDeviceGetCount": 2, "cuDriverGetVersion": 13020, "cuDeviceTotalMem_v2": 80 * 2**30}
            if name in values:
                arguments[0]._obj.value = values[name]
            elif name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA H100"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
            return 0

        return call


def test_every_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_driver", FakeDriver)
    found = nvidia_gpus()
    assert found == [Gpu(index, "NVIDIA H100", "9.0", "13.2", 80 * 2**30) for index in (0, 1)]
    assert str(found[0]) == "NVIDIA H100 (compute capability 9.0, 80 GiB, driver for CUDA 13.2)"


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGetCount", "cuDriverGetVersion"])
def test_a_driver_that_fails_is_no_gpu(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(gpus, "_driver", lambda: FakeDriver(call))
    assert nvidia_gpus() == []


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert nvidia_gpus() == []


def test_the_script_needs_nothing_installed() -> None:
    """`make gpu-check` runs it before it installs anything: -I -S leaves only the standard library."""
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, text=True, check=False)
    if nvidia_gpus():
        assert done.returncode == 0
    else:
        assert done.returncode == 1
        assert done.stderr == "error: there is no NVIDIA GPU here, or its driver is not installed\n"
