"""Where two rungs of the ladder part: hidden states after every step of every layer, side by side.

    points = bisect(open_side("fp32", bundle, opened), open_side("fp16", bundle, opened), batch)
    departure(points)                                  # the first point that leaves the trend, or None

Rounding grows slowly from layer to layer; a fault shows as a jump. The sides are graphs with their inner tensors marked
as outputs, the packed module with hooks, or a plan that is built once more with debug tensors (on a GPU).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from densepack_export.graphs.fused_attention import with_fused_attention, with_square_mask
from densepack_export.plans.builder import PlanSettings, build_plan, choose_flavour
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, InputError, require
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import Batch, Precision
from densepack_runtime.sessions.shapes import Profile

Hidden = dict[str, NDArray[np.float32]]
"""Values by point, in the order of computation; a point is a module path such as "/layer.3/attention/query"."""
# The results that exist under the same name in every form of a graph: projections with their bias, and norms.
_POINT = re.compile(
    r"(?P<point>/(layer\.\d+/(attention/(query|key|value|output)|ffn/(intermediate|output)|(attention|ffn)_norm/norm)"
    r"|embeddings/norm|qa_outputs))/(Add|LayerNormalization)$"
)
# What two sides may differ by before anything is wrong, relative to the size of the values: orders of summation in
# float32, eleven bits in float16.
FLOOR: dict[Precision, float] = {"fp32": 1e-6, "fp16": 1e-3}
# An error this many times above the largest one before it is no rounding.
JUMP = 8.0
_SMALLEST = float(np.finfo(np.float32).tiny)
_GRAPHS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16"}


@dataclass(frozen=True, slots=True)
class Side:
    """One side: its name, what it computes in, and how to get its hidden states for a batch."""

    name: str
    precision: Precision
    hidden: Callable[[Batch], Hidden]


@dataclass(frozen=True, slots=True)
class Point:
    """The error at one point: root mean square of the difference over that of the values, at real positions."""

    name: str
    error: float
    trend: float

    @property
    def leaves(self) -> bool:
        """Whether the error is a jump, compared with the points before it; NaN is one."""
        return not self.error <= JUMP * self.trend


def bisect(left: Side, right: Side, batch: Batch) -> list[Point]:
    """Errors of `right` against `left` at every point that both have. Raises InputError when there is none."""
    expected, found = left.hidden(batch), right.hidden(batch)
    common = [name for name in expected if name in found]
    if not common:
        raise InputError(f"{left.name} and {right.name} have no tensor in common: were both exported by densepack?")
    real = batch.attention_mask.astype(bool)
    points: list[Point] = []
    trend = max(FLOOR[left.precision], FLOOR[right.precision])
    for name in common:
        error = _relative(expected[name], found[name], real)
        points.append(Point(name, error, trend))
        if not points[-1].leaves:
            trend = max(trend, error)
    return points


def departure(points: list[Point]) -> Point | None:
    """The first point where the error leaves its trend."""
    return next((point for point in points if point.leaves), None)


def _relative(expected: NDArray[np.float32], found: NDArray[np.float32], real: NDArray[np.bool_]) -> float:
    size = float(np.sqrt(np.square(expected[real], dtype=np.float64).mean()))
    difference = float(np.sqrt(np.square(found[real] - expected[real], dtype=np.float64).mean()))
    return difference / max(size, _SMALLEST)


BISECT_COLUMNS = ("point", "relative error", "largest before", "")


def bisect_rows(points: list[Point]) -> list[tuple[str, ...]]:
    """The points as text, for `BISECT_COLUMNS`; the first that leaves the trend is marked."""
    first = departure(points)
    return [
        (point.name, f"{point.error:.2e}", f"{point.trend:.2e}", "leaves the trend" if point is first else "")
        for point in points
    ]


def open_side(text: str, bundle: Bundle, opened: ExitStack, module: Any = None) -> Side:
    """A side by name: fp32, fp16, fused (the graph of plans), plan, torch (with the packed `module`), or an ONNX file.

    Raises InputError for anything else, BackendError for a plan where no GPU is.
    """
    if text in _GRAPHS:
        return _graph_side(text, ir.load(bundle.graph(_GRAPHS[text])), _GRAPHS[text], opened)
    if text == "fused":
        graph = with_square_mask(with_fused_attention(ir.load(bundle.graph("fp16"))))
        return _graph_side(text, graph, "fp16", opened)
    if text == "plan":
        return _plan_side(bundle, opened)
    if text == "torch":
        if module is None:
            raise InputError("the side torch needs the checkpoint: pass --checkpoint")
        return Side(text, "fp32", lambda batch: _hidden_of_module(module, batch))
    path = Path(text)
    if not path.is_file():
        raise InputError(f"unknown side {text!r}: give fp32, fp16, fused, plan, torch, or an ONNX file")
    graph = ir.load(path)
    halves = any(value.dtype == ir.DataType.FLOAT16 for value in graph.graph.initializers.values())
    return _graph_side(path.name, graph, "fp16" if halves else "fp32", opened)


def points_of(graph: ir.Graph) -> dict[str, ir.Value]:
    """The tensors to compare, by point, in the order of computation."""
    matches = ((_POINT.search(node.name or ""), node) for node in graph)
    return {match["point"]: node.outputs[0] for match, node in matches if match is not None}


def _graph_side(name: str, model: ir.Model, precision: Precision, opened: ExitStack) -> Side:
    points = points_of(model.graph)
    known = set(model.graph.outputs)
    model.graph.outputs.extend(value for value in points.values() if value not in known)
    folder = opened.enter_context(TemporaryDirectory(prefix="densepack-"))
    path = Path(folder) / "marked.onnx"
    ir.save(model, path)
    runtime: Any = require("onnxruntime", "cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = DEFAULT.cpu_threads
    # Fused operators would compute other tensors than those that are marked.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    names = [value.name for value in points.values()]
    inputs = [tensor.name for tensor in session.get_inputs()]

    def hidden(batch: Batch) -> Hidden:
        values = session.run(names, batch.arrays(inputs))
        return {point: value.astype(np.float32) for point, value in zip(points, values, strict=True)}

    return Side(name, precision, hidden)


def _hidden_of_module(module: Any, batch: Batch) -> Hidden:
    import torch

    found: Hidden = {}

    def keep(point: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            found[point] = output.detach().float().numpy()

        return hook

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            point = _point_of_module(name)
            if point is not None:
                handle = part.register_forward_hook(keep(point))
                hooks.callback(handle.remove)
        with torch.inference_mode():
            module(*(torch.from_numpy(array) for array in batch.arrays().values()))
    return found


def _point_of_module(name: str) -> str | None:
    """'/layer.3/attention/query' of 'layer.3.attention.query', if that is a point."""
    path = "/" + re.sub(r"\.(?!\d)", "/", name)
    match = _POINT.fullmatch(f"{path}/Add")
    return match["point"] if match is not None else None


def _plan_side(bundle: Bundle, opened: ExitStack) -> Side:
    """A plan of the float16 graph with debug tensors, built and run here: that takes the GPU it is for."""
    from densepack_runtime.tensorrt_plans.session import TensorRTSession

    if Host.here().gpu is None:
        raise BackendError("the side plan needs an NVIDIA GPU, and there is none here")
    points = {point: str(value.name) for point, value in points_of(ir.load(bundle.graph("fp16")).graph).items()}
    length = bundle.manifest.max_length
    plan = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-"))) / "debug.plan"
    settings = PlanSettings(flavour=choose_flavour(), debug_tensors=tuple(points.values()))
    entry = build_plan(bundle.graph("fp16"), plan, settings, [Profile((1, 1), (4, length), (8, length))]).entry
    seen: Hidden = {}
    session = TensorRTSession(plan, entry, options=SessionOptions(cuda_graphs=False), on_debug=seen.__setitem__)
    opened.enter_context(session)

    def hidden(batch: Batch) -> Hidden:
        seen.clear()
        session.run(batch)
        return {point: seen[name] for point, name in points.items() if name in seen}

    return Side("plan", "fp16", hidden)
