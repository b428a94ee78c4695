"""What the **simulation** offers exists in the true TensorRT and cuda-python, with the same parameters."""

from __future__ import annotations

import enum
import inspect
from typing import Any

import pytest

from tests.gpu_simulation import cuda_runtime, tensorrt_builder, tensorrt_runtime
from tests.gpu_simulation.cuda_runtime import SimulatedCuda
from tests.tensorrt_api.bindings import RTX
from tests.tensorrt_api.description import Api

# Simulated class, true class.
CLASSES: tuple[tuple[type, str], ...] = (
    (tensorrt_runtime.Runtime, "Runtime"),
    (tensorrt_runtime.Engine, "ICudaEngine"),
    (tensorrt_runtime.ExecutionContext, "IExecutionContext"),
    (tensorrt_runtime.ILogger, "ILogger"),
    (tensorrt_runtime.RuntimeConfig, "IRuntimeConfig"),
    (tensorrt_builder.Builder, "Builder"),
    (tensorrt_builder.Network, "INetworkDefinition"),
    (tensorrt_builder.OnnxParser, "OnnxParser"),
    (tensorrt_builder.BuilderConfig, "IBuilderConfig"),
    (tensorrt_builder.Profile, "IOptimizationProfile"),
    (tensorrt_builder.TimingCache, "ITimingCache"),
)
ENUMS: tuple[type[enum.Enum], ...] = (
    tensorrt_runtime.DataType,
    tensorrt_runtime.TensorIOMode,
    tensorrt_builder.LayerType,
    tensorrt_builder.BuilderFlag,
)
RTX_ONLY = {
    "Runtime.get_engine_validity",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeConfig.get_runtime_cache",
}


def methods(kind: type) -> dict[str, Any]:
    return {name: member for name, member in vars(kind).items() if inspect.isfunction(member) and name[0] != "_"}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(("simulated", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_methods_have_the_true_parameters(simulated: type, name: str, true_api: Api) -> None:
    members = true_api.members(name)
    for method, function in methods(simulated).items():
        if f"{name}.{method}" in RTX_ONLY and true_api.version != RTX:
            continue
        assert method in members, f"{name}.{method} does not exist in {true_api.version}"
        wanted = parameters(function)
        true = true_api.parameters(name, method)
        assert any(names[: len(wanted)] == wanted for names in true), f"{name}.{method}{wanted} is not among {true}"


@pytest.mark.parametrize("simulated", ENUMS, ids=lambda kind: str(kind.__name__))
def test_enums_have_the_true_members(simulated: type[enum.Enum], true_api: Api) -> None:
    assert set(simulated.__members__) <= true_api.members(simulated.__name__)


def test_attributes_exist(true_api: Api) -> None:
    for kind, name, attributes in (
        (
            tensorrt_runtime.Engine,
            "ICudaEngine",
            ("num_io_tensors", "num_optimization_profiles", "device_memory_size_v2"),
        ),
        (tensorrt_runtime.Runtime, "Runtime", ("engine_host_code_allowed",)),
        (
            tensorrt_builder.BuilderConfig,
            "IBuilderConfig",
            ("progress_monitor", "builder_optimization_level", "profiling_verbosity"),
        ),
        (tensorrt_builder.Network, "INetworkDefinition", ("num_layers", "num_inputs")),
        (tensorrt_builder.OnnxParser, "OnnxParser", ("num_errors",)),
    ):
        assert kind
        assert set(attributes) <= true_api.members(name)


CUDA_FUNCTIONS = [name for name in methods(SimulatedCuda) if name.startswith("cuda")]


@pytest.mark.parametrize("name", CUDA_FUNCTIONS)
def test_cuda_functions_have_the_true_parameters(name: str) -> None:
    true = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    function: Any = getattr(true, name)
    assert parameters(getattr(SimulatedCuda, name)) == list(inspect.signature(function).parameters)


def test_cuda_errors_and_constants_are_true() -> None:
    true = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for simulated, name in (
        (cuda_runtime.Error, "cudaError_t"),
        (cuda_runtime.MemcpyKind, "cudaMemcpyKind"),
        (cuda_runtime.CaptureMode, "cudaStreamCaptureMode"),
    ):
        for member in simulated:
            assert int(getattr(getattr(true, name), member.name)) == int(member)
    for constant in ("cudaStreamNonBlocking", "cudaEventDisableTiming", "cudaHostAllocDefault"):
        assert int(getattr(true, constant)) == getattr(SimulatedCuda, constant)


def test_every_sticky_error_exists() -> None:
    from densepack_runtime.tensorrt_plans.cuda_device import STICKY_ERRORS

    true = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    assert set(true.cudaError_t.__members__) >= STICKY_ERRORS
