"""The NVIDIA GPUs of this host, asked of the driver itself.

    for gpu in nvidia_gpus(): gpu.name, gpu.capability, gpu.driver_cuda

Only the standard library is used, so that `make gpu-check` can ask before anything is installed:
`python runtime/densepack_runtime/host/gpus.py` prints the GPUs, or one line why there is none and exits 1.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import asdict, dataclass
from typing import Any

_NAME_BYTES = 256
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `capability` such as "8.6"; `driver_cuda` is the newest CUDA version that the driver knows."""

    index: int
    name: str
    capability: str
    driver_cuda: str
    memory_bytes: int

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.name} (compute capability {self.capability}, {memory}, driver for CUDA {self.driver_cuda})"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def nvidia_gpus() -> list[Gpu]:
    """All GPUs that the driver shows to this process; none without a driver."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return []
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return []
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return [_gpu(driver, index, cuda) for index in range(count.value)]


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _gpu(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_attribute(driver, device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
    return Gpu(index, name.value.decode(), f"{major}.{minor}", cuda, memory.value)


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value


def main() -> int:
    """Print the GPUs; 1 when there is none."""
    gpus = nvidia_gpus()
    for gpu in gpus:
        sys.stdout.write(f"{gpu}\n")
    if not gpus:
        sys.stderr.write("error: there is no NVIDIA GPU here, or its driver is not installed\n")
    return 0 if gpus else 1


if __name__ == "__main__":
    sys.exit(main())
