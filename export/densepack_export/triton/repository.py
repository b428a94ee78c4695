"""A bundle as a Triton model repository: the engine model, and beside it the model that takes and gives texts.

densepack.json                     what is in it, so that --overwrite replaces nothing else
README.md                          how to serve it
NAME/config.pbtxt  1/model.py  1/tokenizer.json  1/settings.json
NAME_engine/config.pbtxt  1/model.onnx, or a plan for each compute capability

write_repository(Bundle.open("bundle/"), Path("models/"), TritonOptions(device="cpu"))
"""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from densepack_export.triton.config_text import Fields, Symbol, config_text, map_entries
from densepack_export.triton.engine_model import Device, EngineModel, engine_model, tensors
from densepack_export.triton.readme import readme
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BundleError, InputError
from densepack_runtime.host.folders import files_in, new_folder, strangers_beside
from densepack_runtime.host.records import Document
from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.sessions.session import Precision

MARKER_NAME = "densepack.json"
_MARKER = Document(MARKER_NAME, BundleError, "write the repository again")
_KIND = "densepack triton repository"
_VERSION = "1"
# Questions that Triton may hand over at once: their windows fill the batches of the engine model.
MOST_QUESTIONS = 64
# While one waits for a GPU, the other one tokenises and ranks. On a CPU they would wait for each other, with smaller
# batches: 64 connections to 2 cores got 14 to 18 questions an execution from two, 30 from one.
INSTANCES_BESIDE_GPU, INSTANCES_BESIDE_CPU = 2, 1
_TEXT = {"data_type": Symbol("TYPE_STRING"), "dims": [1]}


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """What `densepack triton` can be told. A request that waits longer than `timeout_ms` is refused, as is one that
    finds `max_queue` before it.
    """

    name: str = "question_answering"
    device: Device | None = None
    precision: Precision | None = None
    timeout_ms: int = 10_000
    max_queue: int = 1024
    rules: SpanRules = field(default_factory=SpanRules)
    truncate_question: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):  # it is a folder's name, beside README.md
            raise InputError(f"a model's name has letters, digits, '_' and '-', it cannot be {self.name!r}")
        if not math.isfinite(self.rules.null_threshold or 0):
            raise InputError(f"the null threshold must be a finite number, not {self.rules.null_threshold}")

    @property
    def engine_name(self) -> str:
        return f"{self.name}_engine"


def write_repository(bundle: Bundle, folder: Path, options: TritonOptions) -> EngineModel:
    """Write the repository, whole or not at all. Raises InputError for a folder that may not be replaced."""
    engine = engine_model(bundle, options.device, options.precision)
    with new_folder(folder, replaces=strangers_in if options.overwrite else None) as draft:
        _write_engine(draft / options.engine_name, bundle, engine, options)
        _write_question_answering(draft / options.name, bundle, engine, options)
        (draft / "README.md").write_text(readme(bundle, engine, options.name), encoding="utf-8")
        marker = {"kind": _KIND, "bundle": bundle.sha256, "files": sorted(files_in(draft))}
        _write_json(draft / MARKER_NAME, marker)
    return engine


def strangers_in(folder: Path) -> list[str]:
    """What a folder holds that `write_repository` has not written: everything, where it is no repository of ours."""
    return strangers_beside(_MARKER, _KIND, folder)


def _write_engine(folder: Path, bundle: Bundle, engine: EngineModel, options: TritonOptions) -> None:
    inputs = tensors(bundle.manifest.inputs)
    fields = {
        "name": options.engine_name,
        **engine.fields,
        "max_batch_size": engine.max_batch,
        "input": inputs,
        "output": tensors(bundle.manifest.outputs),
        "dynamic_batching": _queue(options),
        "model_warmup": [_warm_up(inputs, *shape) for shape in engine.warmed],
    }
    version = _write_model(folder, fields)
    for name, source in engine.files.items():
        shutil.copyfile(bundle.path(source), version / name)


def _warm_up(inputs: list[Fields], rows: int, length: int) -> Fields:
    """Windows of token 0, which every vocabulary has; random tokens may be outside of it."""
    zeros = {entry["name"]: {"data_type": entry["data_type"], "dims": [length], "zero_data": True} for entry in inputs}
    return {"name": f"{rows} x {length}", "batch_size": rows, "inputs": map_entries(zeros)}


def _write_question_answering(folder: Path, bundle: Bundle, engine: EngineModel, options: TritonOptions) -> None:
    instances = INSTANCES_BESIDE_GPU if engine.on_gpu else INSTANCES_BESIDE_CPU
    fields = {
        "name": options.name,
        "backend": "python",
        "max_batch_size": MOST_QUESTIONS,
        "input": [{"name": name, **_TEXT} for name in ("question", "context")],
        "output": [
            {"name": "answer", **_TEXT},
            {"name": "start", "data_type": Symbol("TYPE_INT32"), "dims": [1]},
            {"name": "end", "data_type": Symbol("TYPE_INT32"), "dims": [1]},
            {"name": "score", "data_type": Symbol("TYPE_FP64"), "dims": [1]},
        ],
        "instance_group": [{"count": instances, "kind": Symbol("KIND_CPU")}],
        "dynamic_batching": _queue(options),
    }
    settings = {
        "engine": options.engine_name,
        "inputs": [tensor.name for tensor in bundle.manifest.inputs],
        "windows": {"max_length": bundle.manifest.max_length, "doc_stride": bundle.manifest.doc_stride},
        "batches": {
            "token_budget": engine.batching.token_budget,
            "length_multiple": engine.batching.length_multiple,
            "max_batch": engine.max_batch,
        },
        "rules": asdict(options.rules),
        "truncate_question": options.truncate_question,
    }
    version = _write_model(folder, fields)
    shutil.copyfile(Path(__file__).with_name("question_answering_model.py"), version / "model.py")
    (version / "tokenizer.json").write_text(bundle.tokenizer_json, encoding="utf-8")
    _write_json(version / "settings.json", settings)


def _queue(options: TritonOptions) -> Fields:
    """Batches of what waits when an instance is free: no delay to wait for more, and a queue with an end."""
    policy = {
        "timeout_action": Symbol("REJECT"),
        "default_timeout_microseconds": options.timeout_ms * 1000,
        "allow_timeout_override": True,
        "max_queue_size": options.max_queue,
    }
    return {"max_queue_delay_microseconds": 0, "default_queue_policy": policy}


def _write_model(folder: Path, fields: Fields) -> Path:
    """A model's folder with its configuration; returns that of its version."""
    version = folder / _VERSION
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config_text(fields), encoding="utf-8")
    return version


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
