"""The plans of the simulation: a header that a runtime can refuse, and the ONNX graph behind it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime

from densepack_export.graphs.fused_attention import with_square_mask

MAGIC = b"SIMULATED TENSORRT PLAN\n"
Shape = tuple[int, int]


class PlanError(Exception):
    """Bytes that are no plan of the simulation."""


@dataclass(frozen=True)
class Plan:
    """Header and graph. `profiles` are (min, opt, max)."""

    version: str
    capabilities: tuple[str, ...]
    profiles: tuple[tuple[Shape, Shape, Shape], ...]
    graph: bytes
    version_compatible: bool = False
    debug: tuple[str, ...] = ()

    def serialize(self) -> bytes:
        header = {name: value for name, value in asdict(self).items() if name != "graph"}
        digest = hashlib.sha256(self.graph).hexdigest()
        return MAGIC + json.dumps({**header, "sha256": digest}).encode() + b"\n" + self.graph

    @classmethod
    def parse(cls, content: bytes) -> Plan:
        if not content.startswith(MAGIC):
            raise PlanError("magicTag does not match")
        line, _, graph = content[len(MAGIC) :].partition(b"\n")
        header: dict[str, Any] = json.loads(line)
        if hashlib.sha256(graph).hexdigest() != header.pop("sha256"):
            raise PlanError("the plan is truncated")
        profiles = tuple((tuple(low), tuple(best), tuple(high)) for low, best, high in header.pop("profiles"))
        for name in ("capabilities", "debug"):
            header[name] = tuple(header[name])
        return cls(**header, profiles=profiles, graph=graph)

    def session(self) -> Any:
        """The graph in ONNX Runtime, debug tensors as outputs, attention with the mask that its CPU kernel takes."""
        model = with_square_mask(ir.serde.deserialize_model(onnx.load_from_string(self.graph)))
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(values[name] for name in self.debug)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        content = ir.serde.serialize_model(model).SerializeToString()
        return onnxruntime.InferenceSession(content, sess_options=options, providers=["CPUExecutionProvider"])
