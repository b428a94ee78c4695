"""Puts the **simulated** TensorRT, CUDA and GPU in the place of the real ones for one test.

simulation = install(monkeypatch)                     # an H100 with TensorRT 11.4, both simulated
simulation.faults.plan("cudaMalloc", after=2)
... open a session, run ...
assert simulation.cuda.live() == NOTHING and not simulation.violations
"""

from __future__ import annotations

import functools
import sys
import weakref
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from densepack_runtime.host.flavours import MODULES, Flavour
from densepack_runtime.host.gpus import Gpu
from densepack_runtime.host.here import Host
from tests.gpu_simulation import tensorrt_builder as building
from tests.gpu_simulation import tensorrt_runtime as running
from tests.gpu_simulation.cuda_runtime import SimulatedCuda
from tests.gpu_simulation.faults import Faults

H100 = Gpu(0, "simulated H100", "9.0", "13.2", 80 * 2**30)
RTX_3090 = Gpu(0, "simulated RTX 3090", "8.6", "13.2", 24 * 2**30)
NOTHING = dict.fromkeys(("memory", "pinned", "streams", "events", "graphs", "execs"), 0)


@dataclass
class Simulation:
    """The state behind the simulated modules."""

    flavour: Flavour
    version: str
    gpu: Gpu
    module: Any
    cuda: SimulatedCuda
    faults: Faults
    caches_used: list[bytes] = field(default_factory=list)
    live_objects: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    @property
    def capability(self) -> str:
        return self.gpu.capability

    @property
    def violations(self) -> list[str]:
        return self.cuda.violations


def install(
    monkeypatch: pytest.MonkeyPatch, flavour: Flavour = "tensorrt", version: str = "11.4.0.106", gpu: Gpu = H100
) -> Simulation:
    """Simulated modules in sys.modules and a simulated GPU behind the driver, until the test ends."""
    faults = Faults()
    module: Any = ModuleType(MODULES[flavour])
    simulation = Simulation(flavour, version, gpu, module, SimulatedCuda(faults), faults)
    _fill(module, simulation)
    runtime: Any = simulation.cuda
    monkeypatch.setitem(sys.modules, MODULES[flavour], module)
    for name, part in (
        ("cuda", ModuleType("cuda")),
        ("cuda.bindings", ModuleType("cuda.bindings")),
        ("cuda.bindings.runtime", runtime),
    ):
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(sys.modules["cuda"], "bindings", sys.modules["cuda.bindings"], raising=False)
    monkeypatch.setattr(sys.modules["cuda.bindings"], "runtime", runtime, raising=False)
    host = Host(gpu, {flavour: version}, (gpu,), ())
    monkeypatch.setattr(Host, "here", lambda: host)
    return simulation


def _fill(module: Any, simulation: Simulation) -> None:
    """The names that densepack uses, in the module's place."""
    module.__version__ = simulation.version
    module.ILogger, module.IDebugListener = running.ILogger, running.IDebugListener
    module.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    module.DataType = running.DataType
    for name, dtype in (("float16", "HALF"), ("float32", "FLOAT"), ("int64", "INT64"), ("int32", "INT32")):
        setattr(module, name, running.DataType[dtype])
    module.TensorIOMode, module.LayerType = running.TensorIOMode, building.LayerType
    module.BuilderFlag, module.OnnxParser = building.BuilderFlag, building.OnnxParser
    module.Runtime = _bound(running.Runtime, simulation)
    module.Builder = _bound(building.Builder, simulation)
    module.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
    module.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    module.LayerInformationFormat = SimpleNamespace(JSON=1)
    if simulation.flavour == "tensorrt-rtx":
        module.CudaGraphStrategy, module.EngineValidity = running.CudaGraphStrategy, running.EngineValidity
        module.EngineInvalidityDiagnostics = running.EngineInvalidityDiagnostics
        module.ComputeCapability = building.ComputeCapability


def _bound(kind: Any, simulation: Simulation) -> Any:
    made = functools.partial(kind, simulation)
    made.__name__ = kind.__name__  # type: ignore[attr-defined]
    return made
