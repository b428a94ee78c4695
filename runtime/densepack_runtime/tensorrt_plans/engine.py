"""From the bytes of a plan to an engine that is what its record says.

    engine = deserialize(trt, runtime, plan, entry, log)
    check_engine(trt, engine, entry)

TensorRT answers a plan that it cannot use with None; whatever it knows about the reason is put into the error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from densepack_runtime.errors import BackendError
from densepack_runtime.sessions.compile_cache import KeptFile
from densepack_runtime.sessions.session import INPUT_NAMES, OUTPUT_NAMES, inputs_among
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.tensorrt_plans.log import TensorRTLog
from densepack_runtime.tensorrt_plans.module import TensorRT, TensorRTForRTX, is_rtx
from densepack_runtime.tensorrt_plans.record import PlanEntry

if TYPE_CHECKING:
    import tensorrt as trt_types
    import tensorrt_rtx as rtx_types

_LOGGER = logging.getLogger("densepack")
_REBUILD = "Rebuild it on this host: densepack build-engine BUNDLE"


def deserialize(
    trt: TensorRT, runtime: trt_types.Runtime, plan: Path, entry: PlanEntry, log: TensorRTLog
) -> trt_types.ICudaEngine:
    """The engine. Raises BackendError with the version, what TensorRT logged and the command that mends it."""
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise BackendError(f"the plan {plan} cannot be read: {error}") from error
    if entry.version_compatible:
        # Such plans carry code for the host; the bundle's checksums are what it is trusted by.
        runtime.engine_host_code_allowed = True
    if is_rtx(trt):
        _check_validity(trt, runtime, content, entry)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load {entry.plan}: {log.told()}. {_REBUILD}")
    return engine


def _check_validity(trt: TensorRTForRTX, runtime: rtx_types.Runtime, content: bytes, entry: PlanEntry) -> None:
    """Ask TensorRT for RTX what it thinks of a plan; the datacenter flavour has no such question."""
    validity, diagnostics = runtime.get_engine_validity(content)
    flags = int(diagnostics)
    names = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if flags & int(flag)]
    told = ", ".join(names) or "no reason given"
    if validity == trt.EngineValidity.INVALID:
        raise BackendError(f"TensorRT {trt.__version__} finds {entry.plan} invalid here: {told}. {_REBUILD}")
    if validity != trt.EngineValidity.VALID:
        _LOGGER.warning("%s runs below its best here: %s", entry.plan, told)


def check_engine(trt: TensorRT, engine: trt_types.ICudaEngine, entry: PlanEntry) -> None:
    """Compare an engine with its record. Raises BackendError that lists every difference."""
    faults = [*_tensor_faults(trt, engine), *_profile_faults(engine, entry)]
    if faults:
        raise BackendError(f"{entry.plan} is not the engine of its record: {'; '.join(faults)}. {_REBUILD}")


def tensor_names(engine: trt_types.ICudaEngine) -> list[str]:
    """Inputs and outputs of an engine."""
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _tensor_faults(trt: TensorRT, engine: trt_types.ICudaEngine) -> list[str]:
    names = tensor_names(engine)
    wanted = dict.fromkeys(inputs_among(names), (trt.TensorIOMode.INPUT, trt.int64))
    wanted |= dict.fromkeys(OUTPUT_NAMES, (trt.TensorIOMode.OUTPUT, trt.float32))
    faults = [f"the tensor {name} is missing" for name in wanted.keys() - set(names)]
    for name in names:
        found = engine.get_tensor_mode(name), engine.get_tensor_dtype(name)
        if wanted.get(name) != found:
            faults.append(f"the tensor {name} is {found[0].name} {found[1].name}")
    return faults


def _profile_faults(engine: trt_types.ICudaEngine, entry: PlanEntry) -> list[str]:
    count = engine.num_optimization_profiles
    if count != len(entry.profiles):
        return [f"it has {count} profiles instead of {len(entry.profiles)}"]
    faults = []
    for index, profile in enumerate(entry.profiles):
        shapes = (
            cast("tuple[int, int]", tuple(shape)) for shape in engine.get_tensor_profile_shape(INPUT_NAMES[0], index)
        )
        found = Profile(*shapes)
        if found != profile:
            faults.append(f"profile {index} is {found} instead of {profile}")
    return faults


def rtx_config(
    trt: TensorRTForRTX, engine: rtx_types.ICudaEngine, cache: KeptFile | None, *, cuda_graphs: bool
) -> rtx_types.IRuntimeConfig:
    """How TensorRT for RTX is to run: whole-graph CUDA graphs, and a cache of the kernels compiled at the first run."""
    config = engine.create_runtime_config()
    if config is None:
        raise BackendError("TensorRT for RTX made no runtime configuration")
    if cuda_graphs:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels: rtx_types.IRuntimeCache = config.create_runtime_cache()
    known = None if cache is None else cache.read()
    if cache is not None and known is not None and not kernels.deserialize(known.tobytes()):
        cache.tell_useless("of another GPU or version")
    if not config.set_runtime_cache(kernels):
        raise BackendError("TensorRT for RTX refused the runtime cache")
    return config


def save_rtx_cache(config: rtx_types.IRuntimeConfig, cache: KeptFile) -> None:
    """Keep compiled kernels for the next start; those that are there already are left alone."""
    content = bytes(config.get_runtime_cache().serialize())
    known = cache.read()
    if known is None or known.tobytes() != content:
        cache.write(content)
