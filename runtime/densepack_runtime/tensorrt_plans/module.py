"""The module `tensorrt` or `tensorrt_rtx` as a type, so that mypy sees every call of it.

    trt = load_tensorrt("tensorrt-rtx")
    trt.Builder                                  # type[tensorrt.Builder]
    if is_rtx(trt):
        trt.ComputeCapability                    # a fault anywhere else

A module is not a type, so the names that we use are listed here. Objects that both flavours have are annotated with
types of `tensorrt`, those of TensorRT for RTX alone with types of `tensorrt_rtx`. Neither comes with type hints: to
mypy all of it is Any, save in tests/tensorrt_api, which runs mypy over stubs of the true bindings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard, TypeVar, cast

from densepack_runtime.errors import require
from densepack_runtime.host.flavours import EXTRAS, MODULES, Flavour

if TYPE_CHECKING:
    from typing_extensions import override as override
else:
    Method = TypeVar("Method", bound=Callable[..., object])

    def override(method: Method) -> Method:
        """Marks what TensorRT calls, so that mypy refuses a name that it never would (typing has it from 3.12 on)."""
        return method


class TensorRT:
    """What both flavours have."""

    __name__: str
    __version__: str
    if TYPE_CHECKING:
        from tensorrt import (
            Builder,
            BuilderFlag,
            IDebugListener,
            ILogger,
            IProgressMonitor,
            LayerInformationFormat,
            LayerType,
            MemoryPoolType,
            NetworkDefinitionCreationFlag,
            OnnxParser,
            ProfilingVerbosity,
            Runtime,
            TensorIOMode,
            float16,
            float32,
            int64,
        )


class TensorRTForRTX(TensorRT):
    """What TensorRT for RTX has beside that."""

    if TYPE_CHECKING:
        from tensorrt_rtx import ComputeCapability, CudaGraphStrategy, EngineInvalidityDiagnostics, EngineValidity


def load_tensorrt(flavour: Flavour) -> TensorRT:
    """The module of a flavour. Raises MissingDependencyError that names the extra."""
    return cast("TensorRT", require(MODULES[flavour], EXTRAS[flavour]))


def is_rtx(trt: TensorRT) -> TypeGuard[TensorRTForRTX]:
    """Whether this is TensorRT for RTX."""
    return trt.__name__ == MODULES["tensorrt-rtx"]
