"""A **simulation** of TensorRT's runtime, over ONNX Runtime on the CPU. Nothing measured on it is TensorRT's.

It enforces what TensorRT enforces: shapes inside the active profile, addresses that are set, aligned and live, a stream
that is not the default one, one thread on a context at a time; wrong calls give False or None and an error in the log.
"""

from __future__ import annotations

import enum
import functools
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.gpu_simulation.cuda_runtime import ALIGNMENT, OK
from tests.gpu_simulation.plan import Plan, PlanError

if TYPE_CHECKING:
    from tests.gpu_simulation.install import Simulation

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    BOOL = 4
    INT64 = 8


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntFlag):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    MALFORMED_ENGINE = 4


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ILogger:
    """Derived from by the code under test."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IDebugListener:
    """Derived from by the code under test."""

    def __init__(self) -> None:
        pass


class Runtime:
    """Loads plans of its own version for its own GPU, and nothing else."""

    def __init__(self, simulation: Simulation, logger: ILogger) -> None:
        self._simulation, self._logger = simulation, logger
        self.engine_host_code_allowed = False
        simulation.live_objects.add(self)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if self._simulation.faults.strikes("Runtime.deserialize_cuda_engine"):
            return self._refuse("injected")
        try:
            plan = Plan.parse(bytes(serialized_engine))
        except PlanError as error:
            return self._refuse(f"Serialization assertion failed: {error}")
        if plan.version != self._simulation.version and not (plan.version_compatible and self.engine_host_code_allowed):
            return self._refuse(f"the engine plan is of version {plan.version}, expecting {self._simulation.version}")
        if self._simulation.capability not in plan.capabilities:
            return self._refuse(f"the engine plan is for {plan.capabilities}, this is {self._simulation.capability}")
        return Engine(self._simulation, self._logger, plan)

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        """TensorRT for RTX only."""
        trt = self._simulation.module
        try:
            plan = Plan.parse(bytes(buffer))
        except PlanError:
            return trt.EngineValidity.INVALID, int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        if plan.version != self._simulation.version:
            return trt.EngineValidity.INVALID, int(trt.EngineInvalidityDiagnostics.VERSION_MISMATCH)
        if self._simulation.capability not in plan.capabilities:
            return trt.EngineValidity.INVALID, int(trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
        return trt.EngineValidity.VALID, 0

    def _refuse(self, text: str) -> Engine | None:
        self._logger.log(ILogger.ERROR, f"[simulated] {text}")
        return None


class RuntimeCache:
    """Compiled kernels of TensorRT for RTX: here, a text."""

    def __init__(self) -> None:
        self.content = b"simulated kernels"

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, blob: bytes) -> bool:
        return bytes(blob) == self.content


class RuntimeConfig:
    """TensorRT for RTX only."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.cuda_graph_strategy: Any = None
        self._cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return not self._simulation.faults.strikes("IRuntimeConfig.set_runtime_cache")

    def get_runtime_cache(self) -> RuntimeCache | None:
        return self._cache


class Engine:
    """An engine: the plan's graph in ONNX Runtime."""

    def __init__(self, simulation: Simulation, logger: ILogger, plan: Plan) -> None:
        self._simulation, self._logger, self.plan = simulation, logger, plan
        self.num_io_tensors = len(INPUTS) + len(OUTPUTS)
        self.num_optimization_profiles = len(plan.profiles)
        self.device_memory_size_v2 = 1 << 20
        simulation.live_objects.add(self)

    @functools.cached_property
    def session(self) -> Any:
        """Made when it is first needed: many tests only open and close."""
        return self.plan.session()

    def get_tensor_name(self, index: int) -> str:
        return (*INPUTS, *OUTPUTS)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in INPUTS else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.INT64 if name in INPUTS else DataType.FLOAT

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, int]]:
        return list(self.plan.profiles[profile_index])

    def create_runtime_config(self) -> RuntimeConfig | None:
        if self._simulation.faults.strikes("ICudaEngine.create_runtime_config"):
            return None
        return RuntimeConfig(self._simulation)

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> ExecutionContext | None:
        if self._simulation.faults.strikes("ICudaEngine.create_execution_context"):
            self._logger.log(ILogger.ERROR, "[simulated] out of memory")
            return None
        return ExecutionContext(self._simulation, self._logger, self)

    def create_engine_inspector(self) -> Any:
        layers = [{"Name": "simulated_mha", "Outputs": [{"Format/Datatype": "Half"}], "TacticName": "fmha"}]
        return SimpleNamespace(get_engine_information=lambda layer_format: json.dumps({"Layers": layers}))


class ExecutionContext:
    """One context: a profile, shapes, addresses. Not for two threads at once."""

    def __init__(self, simulation: Simulation, logger: ILogger, engine: Engine) -> None:
        self._simulation, self._logger, self._engine = simulation, logger, engine
        self._shapes: dict[str, tuple[int, int]] = {}
        self._addresses: dict[str, int] = {}
        self._busy = threading.Lock()
        self._listener: Any = None
        self.active_optimization_profile = 0
        simulation.live_objects.add(self)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._fails("set_optimization_profile_async"):
            return False
        if not 0 <= profile_index < len(self._engine.plan.profiles):
            return self._refuse(f"there is no profile {profile_index}")
        self.active_optimization_profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, int]) -> bool:
        if self._fails("set_input_shape"):
            return False
        low, _, high = self._engine.plan.profiles[self.active_optimization_profile]
        if not all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True)):
            return self._refuse(f"the shape {shape} of {name} is outside the active profile")
        self._shapes[name] = (int(shape[0]), int(shape[1]))
        return True

    def infer_shapes(self) -> list[str]:
        if self._simulation.faults.strikes("IExecutionContext.infer_shapes"):
            raise RuntimeError("[simulated] shape inference failed")
        return [name for name in INPUTS if name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._fails("set_tensor_address"):
            return False
        if memory % ALIGNMENT:
            return self._refuse(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    def set_debug_listener(self, listener: Any) -> bool:
        self._listener = listener
        return not self._fails("set_debug_listener")

    def set_all_tensors_debug_state(self, flag: bool) -> bool:
        return not self._fails("set_all_tensors_debug_state")

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._fails("execute_async_v3"):
            return False
        if not self._busy.acquire(blocking=False):
            self._simulation.violations.append("two threads are on one execution context")
            return False
        try:
            return self._execute(stream_handle)
        finally:
            self._busy.release()

    def _execute(self, stream: int) -> bool:
        if stream == 0:
            return self._refuse("the default stream was used")
        missing = [name for name in (*INPUTS, *OUTPUTS) if name not in self._addresses]
        if missing or self.infer_shapes():
            return self._refuse(f"addresses or shapes are missing: {', '.join(missing)}")
        if len(set(self._shapes.values())) != 1:
            return self._refuse(f"the inputs have different shapes: {self._shapes}")
        shape, addresses, cuda = dict(self._shapes)[INPUTS[0]], dict(self._addresses), self._simulation.cuda

        def compute() -> None:
            count = shape[0] * shape[1]
            feeds = {
                name: cuda.view(addresses[name], count * 8).view(np.int64).reshape(shape).copy() for name in INPUTS
            }
            names = [*OUTPUTS, *(self._engine.plan.debug if self._listener is not None else ())]
            values = dict(zip(names, self._engine.session.run(names, feeds), strict=True))
            for name in names[len(OUTPUTS) :]:
                self._tell_listener(name, values[name], stream)
            for name in OUTPUTS:
                cuda.view(addresses[name], count * 4).view(np.float32)[:] = values[name].ravel()

        return bool(cuda.enqueue(stream, compute) == OK)

    def _tell_listener(self, name: str, values: Any, stream: int) -> None:
        cuda = self._simulation.cuda
        _, address = cuda._allocate(cuda.memory, values.nbytes)
        cuda.view(address, values.nbytes)[:] = np.ascontiguousarray(values).view(np.uint8).ravel()
        dtype = DataType.HALF if values.dtype == np.float16 else DataType.FLOAT
        self._listener.process_debug_tensor(address, None, dtype, values.shape, name, stream)
        del cuda.memory[address]

    def _fails(self, method: str) -> bool:
        if self._simulation.faults.strikes(f"IExecutionContext.{method}"):
            self._logger.log(ILogger.ERROR, f"[simulated] {method} failed")
            return True
        return False

    def _refuse(self, text: str) -> bool:
        self._logger.log(ILogger.ERROR, f"[simulated] {text}")
        return False
