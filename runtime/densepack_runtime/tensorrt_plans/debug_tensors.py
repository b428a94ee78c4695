"""Hidden states of a running plan, through TensorRT's debug tensors (marked when the plan was built).

session = TensorRTSession(plan, entry, cuda_graphs=False, on_debug=lambda name, values: ...)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.tensorrt_plans.cuda_device import CudaDevice
from densepack_runtime.tensorrt_plans.module import TensorRT, override

if TYPE_CHECKING:
    import tensorrt as trt_types

DebugCallback = Callable[[str, NDArray[np.float32]], None]
"""Called with a tensor's name and its values, float32, in the order in which they are computed."""


def make_debug_listener(trt: TensorRT, cuda: CudaDevice, on_debug: DebugCallback) -> trt_types.IDebugListener:
    """An IDebugListener that copies every debug tensor to the host. float16 and float32 tensors are passed on."""
    if TYPE_CHECKING:
        from tensorrt import IDebugListener
    else:
        IDebugListener = trt.IDebugListener  # noqa: N806 a class
    dtypes = {trt.float16: np.float16, trt.float32: np.float32}

    class Listener(IDebugListener):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()

        @override
        def process_debug_tensor(
            self,
            addr: Any,
            location: Any,  # noqa: ARG002  always device memory for the float tensors that are marked
            type: trt_types.DataType,
            shape: Iterable[int],
            name: str,
            stream: int,
        ) -> bool:
            if type not in dtypes:
                return True
            values: NDArray[np.floating] = np.empty(tuple(shape), dtype=dtypes[type])
            cuda.copy_to_host(values, _address(addr), values.nbytes, stream)
            cuda.synchronize(stream)
            on_debug(name, values.astype(np.float32))
            return True

    return Listener()


def _address(capsule: Any) -> int:
    """The pointer in a capsule, as pybind11 passes a void pointer; an integer is taken as it is."""
    if isinstance(capsule, int):
        return capsule
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, None) or 0)
