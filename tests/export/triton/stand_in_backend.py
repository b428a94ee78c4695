"""Stands in for Triton's backends of ONNX Runtime and TensorRT, which no package registry has.

Triton's Python backend runs it as `backends/NAME/model.py`, for repositories that know nothing of it. A "plan" of such
a repository is an ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it


class TritonPythonModel:
    """Runs every request by itself: the model behind it says what to batch."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / next(iter(config["cc_model_filenames"].values()), "model.onnx")
        self._outputs = [output["name"] for output in config["output"]]
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        found = self._session.run(self._outputs, feeds)
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, found, strict=True)]
        return pb_utils.InferenceResponse(tensors)
