"""What a measurement was made on: processor, peak of its matrix products, memory of this process.

hardware()["processor"], peak_gflops(), resident_mib(), peak_resident_mib()
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from densepack_runtime.host.cores import cpu_quota, physical_cores

PEAK_MATMUL_SIZE = 2048
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPUINFO = Path("/proc/cpuinfo")


def hardware() -> dict[str, Any]:
    """Processor, cores and memory of this host, and libraries that were preloaded (another allocator, for one)."""
    return {
        "processor": _processor_name(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "physical_cores": physical_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gib": _memory_gib(),
        "preloaded": [Path(name).name for name in os.environ.get("LD_PRELOAD", "").replace(":", " ").split()],
    }


def peak_gflops(size: int = PEAK_MATMUL_SIZE, repeats: int = 3) -> float:
    """What a float32 matrix product of numpy reaches here with its own threads, in GFLOP/s (best of `repeats`)."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), dtype=np.float32)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        np.matmul(left, left)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e9


def resident_mib() -> float | None:
    """Memory of this process that is in RAM now, in MiB; None where the system does not tell."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float | None:
    """The most memory of this process that was in RAM so far, in MiB; None where the system does not tell.

    Linux also counts into `ru_maxrss` what the parent held when it started this process; its own `VmHWM` does not.
    """
    peak = _status_mib("VmHWM")
    if peak is not None or sys.platform == "win32":  # it has no resource module
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak() -> bool:
    """Let `peak_resident_mib` begin anew. Returns False where the system does not do that."""
    try:
        _FORGET.write_text("5", encoding="ascii")  # 5: VmHWM, see proc(5)
    except OSError:
        return False
    return True


def _status_mib(name: str) -> float | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10  # the file counts KiB
    return None


def processor_features() -> str:
    """The processor's name and instruction sets: compiled code that fits one may end a process on another.

    Only the name where the system does not list instruction sets (macOS, Windows).
    """
    return f"{_processor_name()}: {_cpuinfo('flags') or _cpuinfo('Features')}"


def _processor_name() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's list of them; "" where there is none."""
    if not _CPUINFO.is_file():
        return ""
    for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
