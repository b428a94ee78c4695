"""The model that computes logits in Triton: the bundle's TensorRT plans, or its ONNX graph on ONNX Runtime.

engine = engine_model(bundle)              # the plans where there are some, else the graph on the CPU
engine.fields, engine.files
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from densepack_export.triton.config_text import Fields, Symbol, map_entries
from densepack_runtime.backends import known_backend
from densepack_runtime.bundle import Bundle, TensorEntry
from densepack_runtime.errors import BackendError, BundleError
from densepack_runtime.sessions.batching import MAX_BATCH, Batching
from densepack_runtime.sessions.session import GRAPH_OF, Precision
from densepack_runtime.sessions.shapes import LENGTH_STEP
from densepack_runtime.tensorrt_plans.choice import same_tensorrt
from densepack_runtime.tensorrt_plans.record import PlanEntry

Device = Literal["cpu", "gpu"]
# The backends of densepack whose precision and batches are right for Triton's ONNX Runtime.
_BACKENDS: dict[Device, str] = {"cpu": "onnxruntime", "gpu": "onnxruntime-cuda"}
_TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}


@dataclass(frozen=True, slots=True)
class EngineModel:
    """`files` has names of the bundle by names in Triton's version folder; `fields` is what is special in the config.

    `warmed` are the (batch, length) that are run before the server is ready. `plans` is empty for an ONNX graph.
    """

    files: dict[str, str]
    fields: Fields
    max_batch: int
    batching: Batching
    warmed: tuple[tuple[int, int], ...]
    on_gpu: bool
    plans: tuple[PlanEntry, ...] = ()


def engine_model(bundle: Bundle, device: Device | None = None, precision: Precision | None = None) -> EngineModel:
    """The plans of the bundle; the ONNX graph where it has none, or when a device is named (by default the CPU).

    Raises BackendError for plans that Triton cannot run together, BundleError for a graph that is not there.
    """
    if device is None and bundle.manifest.engines:
        return _from_plans(_servable_plans(bundle, precision))
    return _from_graph(bundle, device or "cpu", precision)


def tensors(entries: tuple[TensorEntry, ...]) -> list[Fields]:
    """Inputs or outputs of a graph for the configuration, which leaves the batch out and calls what varies -1."""
    try:
        return [
            {
                "name": entry.name,
                "data_type": Symbol(_TYPES[entry.dtype]),
                "dims": [int(size) if size.isdigit() else -1 for size in entry.shape[1:]],
            }
            for entry in entries
        ]
    except KeyError as error:
        raise BundleError(f"bundle.json names a tensor of type {error}; known: {', '.join(_TYPES)}") from error


def _from_graph(bundle: Bundle, device: Device, precision: Precision | None) -> EngineModel:
    backend = known_backend(_BACKENDS[device])
    default, length = backend.precisions[0], bundle.manifest.max_length
    batching = backend.batching(default)
    rows = max(1, min(MAX_BATCH, batching.token_budget // length))
    return EngineModel(
        files={"model.onnx": bundle.graph(precision or GRAPH_OF[default]).name},  # the name that Triton expects
        fields={
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "instance_group": [{"count": 1, "kind": Symbol(f"KIND_{device.upper()}")}],
        },
        max_batch=MAX_BATCH,
        batching=_few_lengths(batching) if backend.on_gpu else batching,
        warmed=((1, length), (rows, length)),
        on_gpu=backend.on_gpu,
    )


def _from_plans(plans: dict[str, PlanEntry]) -> EngineModel:
    entries = tuple({entry.plan: entry for entry in plans.values()}.values())
    profiles = entries[0].profiles
    return EngineModel(
        files={Path(entry.plan).name: entry.plan for entry in entries},
        fields={
            "platform": "tensorrt_plan",
            "backend": "tensorrt",
            "cc_model_filenames": map_entries({key: Path(entry.plan).name for key, entry in plans.items()}),
            # One instance with all profiles: Triton takes the nearest that holds a batch. Instances with a profile
            # each would be given batches of any length.
            "instance_group": [
                {"count": 1, "kind": Symbol("KIND_GPU"), "profile": [str(place) for place in range(len(profiles))]}
            ],
        },
        max_batch=entries[0].max_batch,
        batching=_few_lengths(known_backend("tensorrt").batching("fp16")),
        warmed=tuple(dict.fromkeys(profile.opt for profile in profiles)),
        on_gpu=True,
        plans=entries,
    )


def _few_lengths(batching: Batching) -> Batching:
    return replace(batching, length_multiple=LENGTH_STEP)


def _servable_plans(bundle: Bundle, precision: Precision | None) -> dict[str, PlanEntry]:
    """The best plan for every compute capability. Raises BackendError where one server cannot run all of them."""
    build = f"densepack build-engine {bundle.folder} --flavour tensorrt --precision {precision or 'fp16'}"
    plans: dict[str, PlanEntry] = {}
    for entry in sorted(bundle.manifest.engines, key=lambda entry: entry.precision):  # fp16 before fp32
        if entry.flavour == "tensorrt" and precision in (None, entry.precision):
            plans |= {capability: entry for capability in entry.compute_capabilities if capability not in plans}
    if not plans:
        wanted = f"{precision} plans" if precision else "plans"
        told = ", ".join(f"{entry.plan} ({entry.flavour} {entry.precision})" for entry in bundle.manifest.engines)
        raise BackendError(
            f"Triton runs {wanted} of the flavour tensorrt, and the bundle has only {told}. Build one on the GPU that "
            f"will serve: {build}. Or serve the ONNX graph: --device cpu or --device gpu"
        )
    entries = plans.values()
    if not any(all(same_tensorrt(entry, server.tensorrt_version) for entry in entries) for server in entries):
        told = ", ".join(f"{entry.plan} {entry.tensorrt_version}" for entry in entries)
        raise BackendError(f"a server has one TensorRT, and its plans would need {told}. Rebuild with one: {build}")
    if len({entry.profiles for entry in entries}) > 1:
        told = "; ".join(f"{entry.plan} {', '.join(map(str, entry.profiles))}" for entry in entries)
        raise BackendError(f"Triton knows one set of profiles, and the plans have {told}. Rebuild with one: {build}")
    return plans
