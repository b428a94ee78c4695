"""Triton's own protobuf reads every config.pbtxt. It comes with tritonclient, which the server's environment has."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from densepack_export.triton.config_text import config_text
from densepack_export.triton.repository import TritonOptions, write_repository
from densepack_runtime.bundle import Bundle
from tests.export.triton.conftest import WithPlans, a100, h100
from tests.export.triton.server import VARIABLE, named_environment

PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
fields = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(fields, preserving_proto_field_name=True)))
"""


def parsed(text: str) -> dict[str, Any]:
    """What protobuf makes of a text, in the environment that has tritonclient."""
    environment = named_environment()
    if importlib.util.find_spec("tritonclient"):
        python = Path(sys.executable)
    elif environment is not None:
        python = environment / "bin" / "python"
    else:
        pytest.skip(f"tritonclient is not installed, and {VARIABLE} names no environment that has it")
    done = subprocess.run([python, "-c", PARSE], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def configuration(bundle: Path, out: Path, model: str, options: TritonOptions) -> dict[str, Any]:
    write_repository(Bundle.open(bundle), out, options)
    return parsed((out / model / "config.pbtxt").read_text(encoding="utf-8"))


def test_the_text_model(bundle: Path, tmp_path: Path) -> None:
    found = configuration(bundle, tmp_path / "models", "question_answering", TritonOptions(device="cpu"))
    assert found["backend"] == "python"
    assert found["input"][1] == {"name": "context", "data_type": "TYPE_STRING", "dims": ["1"]}
    assert [(output["name"], output["data_type"]) for output in found["output"]] == [
        ("answer", "TYPE_STRING"),
        ("start", "TYPE_INT32"),
        ("end", "TYPE_INT32"),
        ("score", "TYPE_FP64"),
    ]
    policy = found["dynamic_batching"]["default_queue_policy"]
    assert policy == {
        "default_timeout_microseconds": "10000000",
        "allow_timeout_override": True,
        "max_queue_size": 1024,
    }


def test_the_graph(bundle: Path, tmp_path: Path) -> None:
    found = configuration(bundle, tmp_path / "models", "question_answering_engine", TritonOptions(device="gpu"))
    assert (found["platform"], found["backend"], found["max_batch_size"]) == ("onnxruntime_onnx", "onnxruntime", 64)
    assert found["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert found["input"][0] == {"name": "input_ids", "data_type": "TYPE_INT64", "dims": ["-1"]}
    [small, large] = found["model_warmup"]
    assert (small["batch_size"], large["batch_size"]) == (1, 64)
    assert large["inputs"]["input_ids"] == {"data_type": "TYPE_INT64", "dims": ["32"], "zero_data": True}


def test_plans(with_plans: WithPlans, tmp_path: Path) -> None:
    bundle = with_plans(h100(), a100())
    found = configuration(bundle, tmp_path / "models", "question_answering_engine", TritonOptions())
    assert found["cc_model_filenames"] == {"9.0": "sm90.plan", "8.0": "sm80.plan"}
    assert found["instance_group"] == [{"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}]


@pytest.mark.parametrize("text", ["", "a\"b'c\\", "line\nnext\ttab\r\0\x7f", "Zürich 🏔 \u202e"])
def test_any_text_comes_back(text: str) -> None:
    assert parsed(config_text({"name": text})).get("name", "") == text
