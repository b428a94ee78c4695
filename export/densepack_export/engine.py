"""TensorRT plans from ONNX graphs, over the API that `tensorrt` and `tensorrt_rtx` share.

    report = build_engine(Path("model.fp16.onnx"), Path("engines/rtx.plan"), precision="fp16")
    report.half_products, report.products, report.seconds

The flavour `tensorrt-rtx` builds on any host, without a GPU; running its plans needs an RTX-class GPU. The plan is
written to a temporary neighbour and renamed last. A line of level ERROR in TensorRT's log fails the build, even when a
plan came back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from densepack_export.engine_audit import audit_products
from densepack_export.engine_log import BuildLog, Progress, ProgressCallback, captured_log, make_progress_monitor
from densepack_runtime.errors import EngineBuildError, InputError, require
from densepack_runtime.files import new_file, sha256_of
from densepack_runtime.session import INPUT_NAMES, Precision

Flavour = Literal["tensorrt", "tensorrt-rtx"]
_MODULES: dict[Flavour, tuple[str, str]] = {"tensorrt": ("tensorrt", "gpu"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}


@dataclass(frozen=True, slots=True)
class Profile:
    """Smallest, best and largest (batch, length) of one optimisation profile, the same for all three inputs."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse with less to go by. Raises InputError."""
        ordered = zip(self.min, self.opt, self.max, strict=True)
        if not all(1 <= smallest <= best <= largest for smallest, best, largest in ordered):
            raise InputError(f"the profile {self} cannot be: batch and length need 1 <= min <= opt <= max")

    def __str__(self) -> str:
        return " / ".join(f"{batch}x{length}" for batch, length in (self.min, self.opt, self.max))


DEFAULT_PROFILES = (Profile(min=(1, 1), opt=(8, 384), max=(32, 512)),)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What TensorRT may be told; None and () leave its default.

    `compute_capabilities` such as ("8.6", "8.9") narrow a tensorrt-rtx plan, which otherwise is for all that it knows.
    `optimization_level` 0 to 5.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What was built: the record that a bundle keeps. `flags` are TensorRT's builder flags that were on.

    `compute_capabilities` is empty for a plan that fits only the GPU it was built on. `seconds` covers parsing and
    building. `half_products` of `products` matrix products have Half inputs and outputs.
    """

    flavour: Flavour
    tensorrt_version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    flags: tuple[str, ...]
    plan_sha256: str
    onnx_sha256: str
    bytes: int
    seconds: float
    products: int
    half_products: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_tensorrt(flavour: Flavour) -> ModuleType:
    """The module of a flavour. Raises MissingDependencyError that names the extra."""
    module, extra = _MODULES[flavour]
    return require(module, extra)


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    *,
    flavour: Flavour = "tensorrt-rtx",
    precision: Precision = "fp16",
    profiles: Sequence[Profile] = DEFAULT_PROFILES,
    settings: EngineSettings | None = None,
    on_progress: ProgressCallback | None = None,
) -> EngineReport:
    """Build a plan; an existing one is replaced when the new one is complete.

    `precision` is what the graph must have been exported with; nothing is converted here. Raises
    MissingDependencyError, EngineBuildError (parser errors with node names, TensorRT's log) and InputError (profiles,
    compute capabilities). What `on_progress` raises cancels the build and is raised again.
    """
    trt, started = load_tensorrt(flavour), time.perf_counter()
    onnx_path = Path(onnx_path)
    with captured_log(trt) as (logger, log):
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(trt, network, logger, log, onnx_path)
        audit = audit_products(trt, network)
        audit.check(precision)
        config = _configure(trt, builder, network, profiles, log)
        capabilities = _apply(trt, config, settings or EngineSettings(), flavour)
        plan = _build(trt, builder, network, config, log, on_progress)
    seconds = time.perf_counter() - started
    with new_file(Path(plan_path)) as temporary:
        with temporary.open("wb") as file:
            file.write(plan)
        return EngineReport(
            flavour=flavour,
            tensorrt_version=str(trt.__version__),
            precision=precision,
            compute_capabilities=capabilities,
            profiles=tuple(profiles),
            flags=tuple(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)),
            plan_sha256=sha256_of(temporary),
            onnx_sha256=sha256_of(onnx_path),
            bytes=temporary.stat().st_size,
            seconds=seconds,
            products=audit.products,
            half_products=audit.half_products,
            warnings=tuple(log.warnings),
        )


def _parse(trt: ModuleType, network: Any, logger: Any, log: BuildLog, onnx_path: Path) -> None:
    """Fill the network from the file; EngineBuildError lists every parser error with its node."""
    if not onnx_path.is_file():
        raise EngineBuildError(f"there is no ONNX graph at {onnx_path}: export it first")
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(onnx_path))
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if errors or not parsed:
        told = [f"{error.node_name() or 'the graph'} ({error.node_operator()}): {error.desc()}" for error in errors]
        raise EngineBuildError(
            f"TensorRT {trt.__version__} cannot parse {onnx_path.name}: " + "; ".join(told or log.errors)
        )
    _fail_on_errors(log, f"parsing {onnx_path.name}")


def _configure(trt: ModuleType, builder: Any, network: Any, profiles: Sequence[Profile], log: BuildLog) -> Any:
    """A builder configuration with one optimisation profile per entry."""
    if not profiles:
        raise InputError("an engine needs at least one profile of batch and length")
    config = builder.create_builder_config()
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if sorted(names) != sorted(INPUT_NAMES):
        raise EngineBuildError(f"the graph has the inputs {', '.join(names)}; expected are {', '.join(INPUT_NAMES)}")
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name in names:
            shapes.set_shape(name, profile.min, profile.opt, profile.max)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineBuildError(f"TensorRT refused the profile {profile}: {'; '.join(log.errors)}")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _apply(trt: ModuleType, config: Any, settings: EngineSettings, flavour: Flavour) -> tuple[str, ...]:
    """Apply the settings; the compute capabilities that the plan will hold, () for that of this host's GPU."""
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    wanted = settings.compute_capabilities
    if flavour != "tensorrt-rtx":
        if wanted:
            raise InputError("compute capabilities can be chosen for the flavour tensorrt-rtx only")
        return ()
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


def _build(
    trt: ModuleType, builder: Any, network: Any, config: Any, log: BuildLog, on_progress: ProgressCallback | None
) -> Any:
    """The serialised engine. Raises EngineBuildError with the lines of the log that explain why there is none."""
    progress = Progress(on_progress) if on_progress is not None else None
    monitor = make_progress_monitor(trt, progress) if progress is not None else None  # must outlive the build
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if progress is not None and progress.raised is not None:
        raise progress.raised
    _fail_on_errors(log, "building the engine")
    if plan is None:
        raise EngineBuildError(f"TensorRT {trt.__version__} gave no plan and no error: {'; '.join(log.warnings)}")
    return plan


def _fail_on_errors(log: BuildLog, step: str) -> None:
    if log.errors:
        raise EngineBuildError(f"TensorRT logged errors while {step}: {'; '.join(log.errors)}")
