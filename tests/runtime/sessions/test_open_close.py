"""Opening and closing a session leaves nothing behind: no memory, no thread, no descriptor.

CYCLES=2000 python -m pytest tests/runtime/sessions/test_open_close.py
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from densepack_runtime.backends import choose_backend, open_choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.fresh_process import in_fresh_process
from densepack_runtime.host.machine import resident_mib
from densepack_runtime.parity.recorded_reference import RecordedReference
from densepack_runtime.sessions.batching import pad_windows
from densepack_runtime.sessions.options import SessionOptions

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
CYCLES = int(os.environ.get("CYCLES", "60"))
# Allocators settle for a while; after that 2,000 cycles of a leaked graph of 180 kB would be 350 MiB.
GROWTH_MIB = 6.0


def usage() -> tuple[float, int, int]:
    """Resident MiB, threads and descriptors of this process. The kernel lists a thread for a moment after its end."""
    threads = []
    for _ in range(10):
        threads.append(len(os.listdir("/proc/self/task")))  # noqa: PTH208
        time.sleep(0.05)
    return resident_mib() or 0.0, min(threads), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def used_by_cycles(folder: Path, backend: str, cache: Path, cycles: int) -> list[tuple[float, int, int]]:
    """What this process uses after a third, two thirds and all of the cycles."""
    bundle = Bundle.open(folder)
    choice = choose_backend(bundle, backend)
    batch = pad_windows(RecordedReference.load(bundle.path("reference.npz")).windows[:2])
    used = []
    for cycle in range(1, cycles + 1):
        with open_choice(bundle, choice, SessionOptions(threads=2, cache=cache)) as session:
            session.run(batch)
        if cycle % (cycles // 3) == 0:
            used.append(usage())
    return used


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_cycles_leave_nothing_behind(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system does not list threads and descriptors")
    _, middle, last = in_fresh_process(used_by_cycles, LAST, backend, tmp_path, CYCLES)
    assert last[0] - middle[0] < GROWTH_MIB, (middle, last)
    assert last[1:] == middle[1:]
