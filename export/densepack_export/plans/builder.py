"""TensorRT plans from ONNX graphs, over the API that `tensorrt` and `tensorrt_rtx` share.

    built = build_plan(Path("model.fp16.onnx"), Path("engines/rtx.plan"), PlanSettings(), profiles)
    built.entry.proof.half_products, built.entry.proof.products, built.entry.seconds

The flavour `tensorrt-rtx` builds on any host, without a GPU; running its plans needs an RTX-class GPU. `tensorrt`
builds on the GPU that the plan will run on. The plan is written to a temporary neighbour and renamed last. A line of
level ERROR in TensorRT's log fails the build, even when a plan came back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from densepack_export.plans.precision_audit import audit_network, describe_engine
from densepack_export.plans.progress import Progress, ProgressCallback, make_progress_monitor
from densepack_runtime.errors import EngineBuildError, InputError, MissingDependencyError, require
from densepack_runtime.host.files import new_file, sha256_of
from densepack_runtime.host.flavours import FLAVOURS, Flavour
from densepack_runtime.host.gpus import Gpu
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.session import INPUT_NAMES, Precision, inputs_among
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.tensorrt_plans.log import TensorRTLog, captured_log
from densepack_runtime.tensorrt_plans.module import TensorRT, TensorRTForRTX, is_rtx, load_tensorrt
from densepack_runtime.tensorrt_plans.record import PlanEntry

if TYPE_CHECKING:
    import tensorrt as trt_types
    import tensorrt_rtx as rtx_types

Attention = Literal["fused", "written-out"]
DEFAULT_PROFILES = (Profile(min=(1, 1), opt=(8, 384), max=(32, 512)),)
_LOGGER = logging.getLogger("densepack")
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What the builder may be told; None and () leave TensorRT's default.

    `precision` is what the graph must have been exported with; nothing is converted. `compute_capabilities` such as
    ("8.6", "8.9") narrow a tensorrt-rtx plan, which otherwise is for all that it knows. `optimization_level` 0 to 5.
    `version_compatible` plans run with later versions of TensorRT, somewhat slower (flavour `tensorrt` only).
    `debug_tensors` can be listened to when the plan runs.
    """

    flavour: Flavour = "tensorrt-rtx"
    precision: Precision = "fp16"
    attention: Attention = "fused"
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    allow_fp32: bool = False
    debug_tensors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """The record that a bundle keeps, and the timing cache to keep (flavour `tensorrt`)."""

    entry: PlanEntry
    timing_cache: bytes | None = None


def choose_flavour(asked: Flavour | Literal["auto"] = "auto", host: Host | None = None) -> Flavour:
    """The flavour to build: on a GPU host the one built for that GPU, elsewhere the one that needs none.

    Raises InputError for an unknown name, MissingDependencyError when nothing is installed.
    """
    if asked != "auto":
        if asked not in FLAVOURS:
            raise InputError(f"unknown flavour {asked!r}; known: auto, {', '.join(FLAVOURS)}")
        return asked
    host = host or Host.here()
    order: tuple[Flavour, ...] = FLAVOURS if host.gpu is not None else ("tensorrt-rtx",)
    for flavour in order:
        if flavour in host.tensorrt:
            return flavour
    raise MissingDependencyError(
        "no TensorRT is installed: pip install 'densepack[rtx]' (plans for RTX-class GPUs, built on any host) or "
        "'densepack[gpu]' on the GPU host itself"
    )


def build_plan(
    onnx_path: Path,
    plan_path: Path,
    settings: PlanSettings | None = None,
    profiles: Sequence[Profile] = DEFAULT_PROFILES,
    *,
    timing_cache: bytes | None = None,
    on_progress: ProgressCallback | None = None,
) -> BuiltPlan:
    """Build a plan; an existing one is replaced when the new one is complete.

    Raises MissingDependencyError, EngineBuildError (parser errors with node names, TensorRT's log) and InputError
    (profiles, settings). What `on_progress` raises cancels the build and is raised again.
    """
    settings = settings or PlanSettings()
    gpu = _gpu_for(settings)
    trt, started = load_tensorrt(settings.flavour), time.perf_counter()
    onnx_path = Path(onnx_path)
    with captured_log(trt) as (logger, log):
        builder = _made(trt.Builder, logger, log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, logger, log, onnx_path, settings)
        proof = audit_network(trt, network)
        proof.check(settings.precision, allow_fp32=settings.allow_fp32)
        _mark_debug(network, settings.debug_tensors)
        config = _configure(trt, builder, network, profiles, log)
        capabilities = _apply(trt, config, settings)
        cache = _use_timing_cache(config, timing_cache) if settings.flavour == "tensorrt" else None
        plan = _build(trt, builder, network, config, log, settings, on_progress)
        flags = tuple(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag))
        if gpu is not None:
            proof = replace(proof, engine=describe_engine(_inspect(trt, logger, log, plan)))
    seconds = time.perf_counter() - started
    with new_file(Path(plan_path)) as temporary:
        with temporary.open("wb") as file:
            file.write(plan)
        entry = PlanEntry(
            plan=Path(plan_path).name,
            flavour=settings.flavour,
            tensorrt_version=str(trt.__version__),
            precision=settings.precision,
            compute_capabilities=(gpu.capability,) if gpu is not None else capabilities,
            profiles=tuple(profiles),
            flags=flags,
            plan_sha256=sha256_of(temporary),
            onnx_sha256=sha256_of(onnx_path),
            bytes=temporary.stat().st_size,
            seconds=seconds,
            proof=proof,
            gpu=gpu.name if gpu is not None else "",
            driver_cuda=gpu.driver_cuda if gpu is not None else "",
            version_compatible=settings.version_compatible,
            warnings=tuple(log.warnings),
        )
    return BuiltPlan(entry, bytes(cache.serialize()) if cache is not None else None)


def _gpu_for(settings: PlanSettings) -> Gpu | None:
    """The GPU that the plan will be tied to; None for tensorrt-rtx. Raises for what a flavour cannot do."""
    if settings.flavour == "tensorrt-rtx":
        if settings.version_compatible:
            raise InputError("TensorRT for RTX has no version-compatible plans: build one per version")
        return None
    if settings.compute_capabilities:
        raise InputError(
            "compute capabilities can be chosen for the flavour tensorrt-rtx only: a plan of the flavour tensorrt is "
            "for the GPU that it is built on"
        )
    gpu = Host.here().gpu
    if gpu is None:
        raise EngineBuildError(
            "the flavour tensorrt builds on the GPU that the plan will run on, and no NVIDIA GPU is here: build on "
            "that host, or with --flavour tensorrt-rtx"
        )
    return gpu


def _made(factory: Callable[[trt_types.ILogger], _Made | None], logger: trt_types.ILogger, log: TensorRTLog) -> _Made:
    """TensorRT's object, or EngineBuildError with what it logged (a driver that is too old, say)."""
    try:
        made = factory(logger)
    except (RuntimeError, TypeError) as error:  # "factory function returned nullptr"
        raise EngineBuildError(f"TensorRT made no {factory.__name__}: {error} ({log.told()})") from error
    if made is None:
        raise EngineBuildError(f"TensorRT made no {factory.__name__}: {log.told()}")
    return made


def _parse(
    trt: TensorRT,
    network: trt_types.INetworkDefinition,
    logger: trt_types.ILogger,
    log: TensorRTLog,
    onnx_path: Path,
    settings: PlanSettings,
) -> None:
    """Fill the network from the file; EngineBuildError lists every parser error with its node."""
    if not onnx_path.is_file():
        raise EngineBuildError(f"there is no ONNX graph at {onnx_path}: export it first")
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(_graph(onnx_path, settings))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if errors or not parsed:
        told = [f"{error.node_name() or 'the graph'} ({error.node_operator()}): {error.desc()}" for error in errors]
        raise EngineBuildError(
            f"TensorRT {trt.__version__} cannot parse {onnx_path.name}: " + "; ".join(told or [log.told()])
        )
    _fail_on_errors(log, f"parsing {onnx_path.name}")


def _graph(onnx_path: Path, settings: PlanSettings) -> bytes:
    """The bytes to parse: attention fused in float16 graphs, as in the file otherwise."""
    if settings.attention == "fused" and settings.precision == "fp16":
        require("onnx_ir", "engine")
        from densepack_export.graphs.fused_attention import fused_attention_bytes

        return fused_attention_bytes(onnx_path)
    return onnx_path.read_bytes()


def _mark_debug(network: trt_types.INetworkDefinition, names: Sequence[str]) -> None:
    if not names:
        return
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    outputs = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    tensors = {tensor.name: tensor for tensor in outputs}
    missing = [name for name in names if name not in tensors or not network.mark_debug(tensors[name])]
    if missing:
        raise EngineBuildError(f"these tensors cannot be listened to: {', '.join(missing)}")


def _configure(
    trt: TensorRT,
    builder: trt_types.Builder,
    network: trt_types.INetworkDefinition,
    profiles: Sequence[Profile],
    log: TensorRTLog,
) -> trt_types.IBuilderConfig:
    """A builder configuration with one optimisation profile per entry."""
    if not profiles:
        raise InputError("an engine needs at least one profile of batch and length")
    config = builder.create_builder_config()
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if sorted(names) != sorted(inputs_among(names)):
        raise EngineBuildError(f"the graph has the inputs {', '.join(names)}; expected are {', '.join(INPUT_NAMES)}")
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name in names:
            shapes.set_shape(name, profile.min, profile.opt, profile.max)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineBuildError(f"TensorRT refused the profile {profile}: {log.told()}")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _apply(trt: TensorRT, config: trt_types.IBuilderConfig, settings: PlanSettings) -> tuple[str, ...]:
    """Apply the settings; the compute capabilities that the plan will hold, () for that of this host's GPU."""
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    return _narrow_capabilities(trt, config, settings.compute_capabilities) if is_rtx(trt) else ()


def _narrow_capabilities(
    trt: TensorRTForRTX, config: rtx_types.IBuilderConfig, wanted: tuple[str, ...]
) -> tuple[str, ...]:
    """Leave only the compute capabilities that are wanted; () leaves all that this TensorRT knows."""
    members = {name: member for name, member in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    known = {_capability_text(name): member for name, member in members.items()}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"unknown compute capability {', '.join(unknown)}: this TensorRT knows {', '.join(known)}")
    if wanted:
        config.num_compute_capabilities = len(wanted)
        refused = [name for index, name in enumerate(wanted) if not config.set_compute_capability(known[name], index)]
        if refused:
            raise EngineBuildError(f"TensorRT {trt.__version__} refused compute capability {', '.join(refused)}")
    return wanted or tuple(known)


def _capability_text(member: str) -> str:
    """'8.6' from 'SM86', '12.0' from 'SM120'."""
    digits = member.removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}"


def _use_timing_cache(config: trt_types.IBuilderConfig, content: bytes | None) -> trt_types.ITimingCache:
    """Measurements of earlier builds; a cache of another GPU or version is replaced by an empty one, and said."""
    cache = config.create_timing_cache(content or b"")
    if not config.set_timing_cache(cache, False):
        if content:
            _LOGGER.info("the timing cache is of another GPU or TensorRT: it is made anew")
        cache = config.create_timing_cache(b"")
        if not config.set_timing_cache(cache, False):
            raise EngineBuildError("TensorRT refused an empty timing cache")
    return cache


def _build(
    trt: TensorRT,
    builder: trt_types.Builder,
    network: trt_types.INetworkDefinition,
    config: trt_types.IBuilderConfig,
    log: TensorRTLog,
    settings: PlanSettings,
    on_progress: ProgressCallback | None,
) -> trt_types.IHostMemory:
    """The serialised engine. Raises EngineBuildError with the lines of the log that explain why there is none."""
    progress = Progress(on_progress) if on_progress is not None else None
    monitor = make_progress_monitor(trt, progress) if progress is not None else None  # must outlive the build
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if progress is not None and progress.raised is not None:
        raise progress.raised
    _fail_on_errors(log, "building the engine", settings)
    if plan is None:
        raise EngineBuildError(f"TensorRT {trt.__version__} gave no plan and no error: {log.told()}")
    return plan


def _inspect(trt: TensorRT, logger: trt_types.ILogger, log: TensorRTLog, plan: trt_types.IHostMemory) -> str:
    """The finished engine as JSON, from the inspector; needs the GPU."""
    runtime = _made(trt.Runtime, logger, log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"TensorRT cannot load the plan that it has just built: {log.told()}")
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _fail_on_errors(log: TensorRTLog, step: str, settings: PlanSettings | None = None) -> None:
    if not log.errors:
        return
    told = "; ".join(log.errors)
    hint = ""
    if settings is not None and settings.attention == "fused" and "Attention" in told:
        hint = ". No fused kernel for these heads: --attention written-out leaves it to TensorRT"
    raise EngineBuildError(f"TensorRT logged errors while {step}: {told}{hint}")
