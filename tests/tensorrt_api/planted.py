"""Pieces of source that mypy has to refuse, or to accept, with the true API of a TensorRT.

planted_file(PLANTED)       # one file: mypy takes as long for a hundred as for one
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from densepack_runtime.tensorrt_plans.module import TensorRT
from tests.tensorrt_api.bindings import DATACENTER_VERSIONS, RTX, VERSIONS

V10, V11 = DATACENTER_VERSIONS
# What the pieces may use; the types of rtx_types are Any to mypy where TensorRT for RTX is not what is checked.
HEAD = f"""\
from __future__ import annotations

import tensorrt as trt_types
import tensorrt_rtx as rtx_types
from {TensorRT.__module__} import TensorRT, TensorRTForRTX, is_rtx, override

def for_rtx(trt: TensorRTForRTX) -> None: ...
"""
PARAMETERS = """\
    trt: TensorRT,
    builder: trt_types.Builder,
    network: trt_types.INetworkDefinition,
    layer: trt_types.ILayer,
    config: trt_types.IBuilderConfig,
    runtime: trt_types.Runtime,
    engine: trt_types.ICudaEngine,
    maybe: trt_types.ICudaEngine | None,
    context: trt_types.IExecutionContext,
    rtx: TensorRTForRTX,
    rtx_config: rtx_types.IRuntimeConfig,
    wanted: bool,
    flavour: str,
"""


@dataclass(frozen=True, slots=True)
class Planted:
    """A piece of source, what mypy must say of it, and with which APIs; it must say nothing with the others."""

    source: str
    told: str = ""
    refused_by: Sequence[str] = VERSIONS


def planted_file(pieces: Sequence[Planted]) -> tuple[str, list[int]]:
    """The text of a file with a function for every piece, and the last line of each."""
    text, ends = HEAD, []
    for number, piece in enumerate(pieces):
        body = textwrap.indent(textwrap.dedent(piece.source), "    ")
        text += f"\ndef piece_{number}(\n{PARAMETERS}) -> None:\n{body}\n"
        ends.append(text.count("\n"))
    return text, ends


FAULTS = (
    # Names that do not exist.
    Planted("network.get_layr(0)", '"INetworkDefinition" has no attribute "get_layr"'),
    Planted("context.execute_async_v4(0)", '"IExecutionContext" has no attribute "execute_async_v4"'),
    Planted("engine.get_tensor_naem(0)", '"ICudaEngine" has no attribute "get_tensor_naem"'),
    Planted("trt.BuilderFlags", '"TensorRT" has no attribute "BuilderFlags"'),
    Planted("from tensorrt import BuilderFlags", '"tensorrt" has no attribute "BuilderFlags"'),
    Planted("flag: trt_types.BuilderFlags", 'Name "trt_types.BuilderFlags" is not defined'),
    Planted("trt.ILogger.EROR", '"type[ILogger]" has no attribute "EROR"'),
    Planted("trt.BuilderFlag.FP17", '"type[BuilderFlag]" has no attribute "FP17"'),
    Planted("network.get_input(0).shap", '"ITensor" has no attribute "shap"'),
    Planted("kept = config.get_timing_cache()\nkept.serialise()", '"ITimingCache" has no attribute "serialise"'),
    Planted("[one.nam for one in [network.get_layer(0)]]", '"ILayer" has no attribute "nam"'),
    Planted("if maybe is not None: maybe.nam", '"ICudaEngine" has no attribute "nam"'),
    Planted("maybe.name", 'Item "None" of "ICudaEngine | None" has no attribute "name"'),
    # Assignments.
    Planted("config.builder_optimisation_level = 3", '"IBuilderConfig" has no attribute "builder_optimisation_level"'),
    Planted("engine.num_layers = 3", 'Property "num_layers" defined in "ICudaEngine" is read-only'),
    Planted("config.builder_optimization_level = 'three'", 'expression has type "str"'),
    # Arguments.
    Planted("network.get_layer()", 'Missing positional argument "index" in call to "get_layer"'),
    Planted("network.get_layer(0, 1)", 'Too many arguments for "get_layer"'),
    Planted("network.get_layer('0')", 'Argument 1 to "get_layer" of "INetworkDefinition" has incompatible type "str"'),
    Planted("trt.Builder()", 'Missing positional argument "logger" in call to "Builder"'),
    Planted("trt.Builder(network)", 'Argument 1 to "Builder" has incompatible type "INetworkDefinition"'),
    Planted(
        "config.set_timing_cache(config.get_timing_cache(), ignore=True)",
        'Unexpected keyword argument "ignore" for "set_timing_cache"',
    ),
    # What TensorRT calls.
    Planted(
        """\
        class Monitor(trt_types.IProgressMonitor):
            @override
            def phase_begin(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...
        """,
        '"phase_begin" is marked as an override, but no base method was found',
    ),
    Planted(
        """\
        class Monitor(trt_types.IProgressMonitor):
            @override
            def phase_finish(self) -> None: ...
        """,
        'Signature of "phase_finish" incompatible with supertype',
    ),
    Planted(
        """\
        class Monitor(trt_types.IProgressMonitor):
            @override
            def step_complete(self, phase_name: str, step: int) -> None: ...
        """,
        'Return type "None" of "step_complete" incompatible with return type "bool"',
    ),
    Planted(
        """\
        class Monitor(trt_types.IProgressMonitor):
            def phase_finish(self, phase_name: str) -> None: ...
        """,
        'Method "phase_finish" is not using @override',
    ),
)

_UNGUARDED = '"TensorRT" has no attribute "ComputeCapability"'
UNGUARDED = (
    # The module: it has to be asked, whichever flavour is checked.
    Planted("trt.ComputeCapability", _UNGUARDED),
    Planted("if not is_rtx(trt):\n    trt.ComputeCapability", _UNGUARDED),
    Planted("if is_rtx(trt):\n    pass\nelse:\n    trt.ComputeCapability", _UNGUARDED),
    Planted("if is_rtx(trt):\n    pass\ntrt.ComputeCapability", _UNGUARDED),
    Planted("is_rtx(trt) or trt.ComputeCapability", _UNGUARDED),
    Planted("if hasattr(trt, 'BuilderFlag'):\n    trt.ComputeCapability", _UNGUARDED),
    Planted("if wanted:\n    trt.ComputeCapability", _UNGUARDED),
    Planted("if flavour == 'tensorrt-rtx':\n    trt.ComputeCapability", _UNGUARDED),
    Planted("for_rtx(trt)", 'Argument 1 to "for_rtx" has incompatible type "TensorRT"'),
    # Objects that both flavours have, and what only that of TensorRT for RTX has.
    Planted("runtime.get_engine_validity(b'')", 'no attribute "get_engine_validity"', DATACENTER_VERSIONS),
    Planted("config.num_compute_capabilities = 1", 'no attribute "num_compute_capabilities"', DATACENTER_VERSIONS),
    Planted(
        "engine.create_runtime_config().create_runtime_cache()",
        'no attribute "create_runtime_cache"',
        DATACENTER_VERSIONS,
    ),
    # What is TensorRT for RTX's alone is checked against that.
    Planted("rtx.ComputeCapability.SM68", '"type[ComputeCapability]" has no attribute "SM68"', (RTX,)),
    Planted("rtx_config.set_runtime_cash()", '"IRuntimeConfig" has no attribute "set_runtime_cash"', (RTX,)),
)

# What 10.16 still has and 11 does not: old code passes a test on the one and fails on the other.
GONE_IN_11 = tuple(
    Planted(source, f'no attribute "{source.rpartition(".")[2]}"', (V11, RTX))
    for source in (
        "trt.BuilderFlag.FP16",
        "trt.BuilderFlag.INT8",
        "trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "builder.platform_has_fast_fp16",
        "layer.precision",
        "trt_types.INormalizationLayer.compute_precision",
        "trt_types.IInt8Calibrator",
        "engine.device_memory_size",
    )
)

RIGHT = tuple(
    Planted(source, refused_by=())
    for source in (
        "builder.create_network(flags=0).get_layer(0).get_output(0).dtype.name",
        "config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)",
        "trt.__version__, trt.BuilderFlag.__members__.items()",
        "hasattr(trt, 'Whatever'), getattr(trt.BuilderFlag, 'WHATEVER', None)",
        "network.get_layer(*[0])",
        "if is_rtx(trt):\n    trt.ComputeCapability.SM86\n    for_rtx(trt)",
        "if not is_rtx(trt):\n    return\ntrt.ComputeCapability",
        "trt.ComputeCapability if is_rtx(trt) else None",
        "is_rtx(trt) and wanted and trt.ComputeCapability",
        "[trt.ComputeCapability for name in 'ab' if is_rtx(trt)]",
        "if hasattr(trt, 'ComputeCapability'):\n    trt.ComputeCapability",
        "if hasattr(runtime, 'get_engine_validity'):\n    runtime.get_engine_validity(b'')",
        "rtx_config.set_runtime_cache(rtx_config.create_runtime_cache())",
        """\
        class Logger(trt_types.ILogger):
            def __init__(self) -> None:
                super().__init__()
                self.lines: list[str] = []
            def enter(self) -> None: ...
            @override
            def log(self, severity: trt_types.ILogger.Severity, msg: str) -> None:
                self.lines.append(msg)
        logger = Logger()
        logger.enter()
        trt.Builder(logger).create_builder_config().set_flag(trt.BuilderFlag.DEBUG)
        """,
    )
)
PLANTED = (*FAULTS, *UNGUARDED, *GONE_IN_11, *RIGHT)
