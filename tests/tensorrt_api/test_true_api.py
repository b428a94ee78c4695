"""What our code touches of TensorRT exists in the true APIs of 10.16, 11.4 and the installed TensorRT for RTX."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

import pytest

from tests.tensorrt_api.class_members import class_fields
from tests.tensorrt_api.description import REPOSITORY, RTX, VERSIONS, Api
from tests.tensorrt_api.fixtures import DescribeTensorrt
from tests.tensorrt_api.name_check import exists, faults
from tests.tensorrt_api.sources import ROOTS, builder_and_session, tensorrt_sources
from tests.tensorrt_api.used_names import Use, uses_in

V10, V11, _ = VERSIONS
JUDGED_SHARE = 0.8  # of the uses; the API tells the class of most objects, not of elements of its lists
# Uses that the datacenter flavour does not have and that nothing in the source guards: (file, use) and the reason.
RTX_ONLY: dict[tuple[str, str], str] = {}


def faults_in(source: str, api: Api) -> list[str]:
    return [fault for _, fault in faults(uses_in(textwrap.dedent(source)), api)]


def test_sources_are_found() -> None:
    names = {path.name for path in builder_and_session()}
    assert {"engine.py", "tensorrt_engine.py", "tensorrt_session.py"} <= names
    assert {path.name for path in tensorrt_sources()} >= names


def test_everything_touched_exists(true_api: Api) -> None:
    fields = class_fields(ast.parse(path.read_text(encoding="utf-8")) for root in ROOTS for path in root.rglob("*.py"))
    allowed = RTX_ONLY if true_api["module"] != RTX else {}
    found = [
        f"{path.relative_to(REPOSITORY)}:{use.line}: {fault}"
        for path in tensorrt_sources()
        for use, fault in faults(uses_in(path.read_text(encoding="utf-8"), fields), true_api)
        if (path.name, str(use.reference)) not in allowed
    ]
    assert not found, (
        "\n".join(found) + "\nGuard it by `if flavour == …` or hasattr; annotate a variable that is not TensorRT's"
    )


def all_uses() -> Iterator[tuple[str, Use]]:
    for path in tensorrt_sources():
        for use in uses_in(path.read_text(encoding="utf-8")):
            yield path.name, use


def test_enough_is_judged(describe_tensorrt: DescribeTensorrt) -> None:
    """The walk sees our code: a convention that is given up would leave the test above with nothing to check."""
    names = {use.reference.steps[-1] for _, use in all_uses()}
    assert {"STRONGLY_TYPED", "ERROR", "get_layer", "add_optimization_profile", "build_serialized_network"} <= names
    references = [use.reference for _, use in all_uses()]
    judged = [reference for reference in references if exists(reference, describe_tensorrt(RTX)) is not None]
    assert len(judged) > JUDGED_SHARE * len(references)


def test_allowed_uses_are_still_there() -> None:
    assert set(RTX_ONLY) <= {(name, str(use.reference)) for name, use in all_uses()}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("network.get_layr(0)", "INetworkDefinition.get_layr does not exist"),
        ("self._context.execute_async_v4(0)", "IExecutionContext.execute_async_v4 does not exist"),
        ("trt.BuilderFlags", "trt.BuilderFlags does not exist"),
        ("trt.ILogger.EROR", "trt.ILogger.EROR does not exist"),
        ("network.get_input(0).shap", "INetworkDefinition.get_input.shap does not exist"),
        ("kept = config.get_timing_cache()\nkept.serialise()", "get_timing_cache.serialise does not exist"),
        ("getattr(trt, 'Bulder')", "trt.Bulder does not exist"),
        ("config.builder_optimisation_level = 3", "IRuntimeConfig.builder_optimisation_level does not exist"),
        ("engine.num_layers = 3", "ICudaEngine.num_layers cannot be assigned"),
        ("network.get_layer()", "INetworkDefinition.get_layer does not take 0 positional arguments"),
        ("trt.Builder()", "trt.Builder does not take 0 positional arguments"),
        ("config.set_timing_cache(x, ignore=True)", "does not take 1 positional arguments, ignore="),
        ("def f(one: trt_types.ICudaEngine | None): one.nam", "ICudaEngine.nam does not exist"),
        (
            "class M(trt.IProgressMonitor):\n    def phase_begin(self, name, parent, steps): ...",
            "trt.IProgressMonitor.phase_begin does not exist",
        ),
        (
            "class M(trt.IProgressMonitor):\n    def phase_finish(self): ...",
            "trt.IProgressMonitor.phase_finish does not take 0",
        ),
    ],
)
def test_planted_fault_is_found(source: str, fault: str, true_api: Api) -> None:
    (told,) = faults_in(source, true_api)
    assert fault in told
    assert told.endswith(f"in {true_api['module']} {true_api['version']}")


@pytest.mark.parametrize(
    "source",
    [
        "trt.Builder(logger).create_network(flags=0).get_layer(0).get_output(0).dtype.name",
        "config.progress_monitor = monitor",
        "trt.__version__, trt.BuilderFlag.__members__.items()",
        "hasattr(trt, 'Whatever'), getattr(trt.BuilderFlag, 'WHATEVER', None)",
        "from argparse import parser\nparser.parse_args()",
        "def f(profiles: Sequence[Profile]):\n    return [profile.nothing for profile in profiles]",
        "def f(profiles: tuple[Profile, ...]):\n    for number, profile in enumerate(profiles): profile.nothing",
        "context: str = ''\ncontext.split()",
        "logger = Mine()\nlogger.nothing",
        "class L(trt.ILogger):\n    def __init__(self): self.lines = []\nlogger.lines",
        "network.get_layer(*indices)",
        "class L(trt.ILogger):\n    def enter(self): ...\nlogger.enter()",
        "def f(entry: PlanEntry):\n    profile = entry.profiles[0]\n    profile.nothing",
        "shapes = (tuple(shape) for shape in found)\nshapes.nothing",
    ],
)
def test_what_is_right_or_not_tensorrts_is_left_alone(source: str, true_api: Api) -> None:
    assert faults_in(source, true_api) == []


GUARDED = {
    "flavour": "if flavour == 'tensorrt-rtx':\n    trt.ComputeCapability",
    "early return": "def f(flavour):\n    if flavour != 'tensorrt-rtx':\n        return\n    trt.ComputeCapability",
    "conditional": "trt.ComputeCapability if self.flavour in ('tensorrt-rtx',) else None",
    "constant": "RTX = 'tensorrt-rtx'\nif flavour == RTX and wanted:\n    trt.ComputeCapability",
    "hasattr": "if hasattr(trt, 'ComputeCapability'):\n    trt.ComputeCapability",
    "another hasattr": "if hasattr(config, 'set_compute_capability'):\n    trt.ComputeCapability",
    "not hasattr": "if not hasattr(trt, 'ComputeCapability'):\n    raise ValueError\ntrt.ComputeCapability",
    "and": "hasattr(trt, 'ComputeCapability') and trt.ComputeCapability",
    "function for RTX": "def rtx_config():\n    trt.ComputeCapability",
    "comprehension": "[trt.ComputeCapability for name in names if hasattr(trt, 'ComputeCapability')]",
}
NOT_GUARDED = {
    "bare": "trt.ComputeCapability",
    "the other flavour": "if flavour == 'tensorrt':\n    trt.ComputeCapability",
    "else": "if flavour == 'tensorrt-rtx':\n    pass\nelse:\n    trt.ComputeCapability",
    "after": "if hasattr(trt, 'ComputeCapability'):\n    pass\ntrt.ComputeCapability",
    "or": "hasattr(trt, 'ComputeCapability') or trt.ComputeCapability",
    "what both have": "if hasattr(config, 'set_flag'):\n    trt.ComputeCapability",
    "something else": "if wanted:\n    trt.ComputeCapability",
}


@pytest.mark.parametrize("source", GUARDED.values(), ids=GUARDED.keys())
def test_guarded_use_passes(source: str, true_api: Api) -> None:
    assert faults_in(source, true_api) == []


@pytest.mark.parametrize("source", NOT_GUARDED.values(), ids=NOT_GUARDED.keys())
def test_unguarded_use_fails_where_the_name_is_missing(source: str, describe_tensorrt: DescribeTensorrt) -> None:
    assert faults_in(source, describe_tensorrt(V11)) == ["trt.ComputeCapability does not exist in tensorrt 11.4.0.106"]


# What 10.16 still has and 11 does not: old code passes a test on the one and fails on the other.
GONE_IN_11 = (
    "trt.BuilderFlag.FP16",
    "trt.BuilderFlag.INT8",
    "trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "builder.platform_has_fast_fp16",
    "layer.precision",
    "trt.INormalizationLayer.compute_precision",
    "trt.IInt8Calibrator",
    "engine.device_memory_size",
)


@pytest.mark.parametrize("source", GONE_IN_11)
def test_what_11_took_away_is_found(source: str, describe_tensorrt: DescribeTensorrt) -> None:
    assert faults_in(source, describe_tensorrt(V10)) == []
    for version in (V11, RTX):
        (told,) = faults_in(source, describe_tensorrt(version))
        assert "does not exist" in told


@pytest.mark.parametrize("version", VERSIONS)
def test_description_is_that_of_the_version_asked_for(version: str, describe_tensorrt: DescribeTensorrt) -> None:
    api = describe_tensorrt(version)
    if version == RTX:
        assert api["module"] == RTX
    else:
        assert (api["module"], api["version"]) == ("tensorrt", version)
    assert api["classes"]["Logger"]["bases"] == ["ILogger"]
    assert api["enums"]["ILogger.Severity"]["INTERNAL_ERROR"] == 0
    set_shape = api["classes"]["IOptimizationProfile"]["members"]["set_shape"]["signatures"]
    assert [parameter["name"] for parameter in set_shape[0]["parameters"]] == ["input", "min", "opt", "max"]
