"""A **simulation** of TensorRT's builder: parses densepack's graphs, keeps them in a plan. No kernel is built."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from tests.gpu_simulation.plan import Plan, Shape
from tests.gpu_simulation.tensorrt_runtime import DataType, ILogger

if TYPE_CHECKING:
    from tests.gpu_simulation.install import Simulation


class LayerType(enum.Enum):
    MATRIX_MULTIPLY = 0
    ATTENTION_INPUT = 1
    NORMALIZATION = 2
    SOFTMAX = 3
    CAST = 4
    ELEMENTWISE = 5
    GATHER = 6
    SHUFFLE = 7
    EINSUM = 8
    CONVOLUTION = 9


class BuilderFlag(enum.Enum):
    """Without FP16: strongly typed networks have no such flag."""

    DEBUG = 0
    TF32 = 1
    VERSION_COMPATIBLE = 2


class ComputeCapability(enum.Enum):
    """TensorRT for RTX only."""

    SM86 = 0
    SM89 = 1


_LAYERS = {
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Attention": LayerType.ATTENTION_INPUT,
    "LayerNormalization": LayerType.NORMALIZATION,
    "Softmax": LayerType.SOFTMAX,
    "Cast": LayerType.CAST,
    "Add": LayerType.ELEMENTWISE,
    "Gather": LayerType.GATHER,
}
_TYPES = {
    ir.DataType.FLOAT: DataType.FLOAT,
    ir.DataType.FLOAT16: DataType.HALF,
    ir.DataType.INT64: DataType.INT64,
    ir.DataType.BOOL: DataType.BOOL,
}


class Network:
    """What the parser filled; layers as views of the ONNX nodes."""

    def __init__(self) -> None:
        self.content = b""
        self.model: ir.Model | None = None
        self.debug: list[str] = []

    @property
    def _nodes(self) -> list[ir.Node]:
        return list(self.model.graph) if self.model is not None else []

    @property
    def num_layers(self) -> int:
        return len(self._nodes)

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.inputs) if self.model is not None else 0

    def get_input(self, index: int) -> Any:
        assert self.model is not None
        return SimpleNamespace(name=self.model.graph.inputs[index].name)

    def get_layer(self, index: int) -> Any:
        node = self._nodes[index]
        inputs = [_tensor(value) for value in node.inputs]
        outputs = [_tensor(value) for value in node.outputs]
        return SimpleNamespace(
            name=node.name,
            type=_LAYERS.get(node.op_type, LayerType.SHUFFLE),
            num_inputs=len(inputs),
            num_outputs=len(outputs),
            get_input=inputs.__getitem__,
            get_output=outputs.__getitem__,
        )

    def mark_debug(self, tensor: Any) -> bool:
        self.debug.append(tensor.name)
        return True


def _tensor(value: ir.Value | None) -> Any:
    if value is None:
        return None
    dtype = _TYPES.get(value.dtype, DataType.FLOAT) if value.dtype is not None else DataType.FLOAT
    return SimpleNamespace(name=value.name, dtype=dtype)


class OnnxParser:
    """Knows the standard operators and no other domain."""

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._errors = network, list[Any]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            loaded = ir.serde.deserialize_model(onnx.load_from_string(bytes(model)))
        except DecodeError:
            return False
        common.ShapeInferencePass()(loaded)
        self._errors = [
            SimpleNamespace(
                desc=lambda: "no importer registered for op",
                node_name=lambda node=node: node.name,
                node_operator=lambda node=node: node.op_type,
            )
            for node in loaded.graph
            if node.domain not in ("", "ai.onnx")
        ]
        self._network.model, self._network.content = loaded, bytes(model)
        return not self._errors


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        self.shapes[input] = (min, opt, max)


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class BuilderConfig:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._flags = {BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.progress_monitor: Any = None
        self.limits: dict[Any, int] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity: Any = None
        self._cache: TimingCache | None = None

    def add_optimization_profile(self, profile: Profile) -> int:
        if self._simulation.faults.strikes("IBuilderConfig.add_optimization_profile"):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """A cache of another version is refused."""
        mine = f"simulated timing cache {self._simulation.version}".encode()
        if cache.content not in (b"", mine):
            return False
        self._simulation.caches_used.append(cache.content)
        cache.content = mine
        self._cache = cache
        return True


class Builder:
    """Calls the progress monitor, then wraps the graph."""

    def __init__(self, simulation: Simulation, logger: ILogger) -> None:
        self._simulation, self._logger = simulation, logger

    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self._simulation)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        if self._simulation.faults.strikes("Builder.build_serialized_network"):
            self._logger.log(ILogger.WARNING, "[simulated] no tactic was left")
            return None
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            if not all(monitor.step_complete("Building engine", step) for step in range(2)):
                return None
            monitor.phase_finish("Building engine")
        shapes = [profile.shapes["input_ids"] for profile in config.profiles]
        return Plan(
            version=self._simulation.version,
            capabilities=(self._simulation.capability,),
            profiles=tuple(shapes),
            graph=network.content,
            version_compatible=config.get_flag(BuilderFlag.VERSION_COMPATIBLE),
            debug=tuple(network.debug),
        ).serialize()
