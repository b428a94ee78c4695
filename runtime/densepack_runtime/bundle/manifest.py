"""What bundle.json says: hash and size of every other file, the model, its tensors, its engines, the verdict.

The manifest has a checksum of its own. `find_faults` compares a folder with it.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from typing import Any

from densepack_runtime.errors import BundleError, joined
from densepack_runtime.host.files import sha256_of
from densepack_runtime.host.folders import files_in
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.sessions.fp16_range import RangeReport
from densepack_runtime.sessions.session import ComputePrecision, Precision, graph_inputs
from densepack_runtime.structure import Structure
from densepack_runtime.tensorrt_plans.record import PlanEntry

MANIFEST_NAME = "bundle.json"
MANIFEST_KIND = "densepack bundle"
MANIFEST_SCHEMA = 2
_READABLE_SCHEMAS = (1, MANIFEST_SCHEMA)
MANIFEST = Document(
    MANIFEST_NAME,
    BundleError,
    "it is damaged or was written by another densepack, copy the bundle again or build it again",
)
ONNX_NAMES: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
REFERENCE_NAME = "reference.npz"
PARITY_NAME = "parity.json"
REPORT_NAME = "report.html"
ENGINES_FOLDER = "engines"
TIMING_CACHE_NAME = "timing.cache"


@dataclass(frozen=True, slots=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class TensorEntry:
    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """The packed model: where it came from, what that stored, and what is left of it."""

    name: str
    sha256: str
    parameters_stored: int
    structure: Structure

    @property
    def derived(self) -> dict[str, float]:
        """The figures of the structure and of the unpruned model, for whoever reads bundle.json without densepack."""
        packed, dense = self.structure, self.structure.dense()
        return {
            "parameters": packed.parameters,
            "parameters_dense": dense.parameters,
            "linear_density": packed.linear_density,
            "heads_left": packed.heads_left,
            "heads_total": packed.heads_total,
            "flops_per_token": packed.cost.per_token,
            "flops_per_token_pair": packed.cost.per_token_pair,
            "dense_flops_per_token": dense.cost.per_token,
            "dense_flops_per_token_pair": dense.cost.per_token_pair,
        }


@dataclass(frozen=True, slots=True)
class ParityEntry:
    """The verdict of the ladder that `parity.json` tells in full. `checked` is False after `--no-parity`."""

    checked: bool
    passed: bool = False
    squad_name: str = ""
    squad_sha256: str = ""
    questions: int = 0
    summary: str = ""


@dataclass(frozen=True, slots=True)
class ClosedPrecision:
    """What failed the ladder when the bundle was built: it is refused here, with the reason, and the rest stands."""

    backend: str
    precision: ComputePrecision
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of bundle.json. `engines` holds one entry per plan, `fp16_range` what the range gate measured.

    `closed` came with schema 2: a bundle of schema 1 was not written where a precision failed.
    """

    model: ModelEntry
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    max_length: int
    doc_stride: int
    versions: dict[str, str]
    parity: ParityEntry
    engines: tuple[PlanEntry, ...] = ()
    fp16_range: RangeReport | None = None
    files: dict[str, FileEntry] = field(default_factory=dict)
    closed: tuple[ClosedPrecision, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no bundle can be. Raises BundleError."""
        structure = self.model.structure
        longest, named = structure.longest_input, tuple(tensor.name for tensor in self.inputs)
        faults = [f"a file {shortened(name)} outside of itself" for name in self.files if not _is_inside(name)]
        faults += [
            f"a plan {shortened(plan.plan)} outside of itself" for plan in self.engines if not _is_inside(plan.plan)
        ]
        if not 0 <= self.doc_stride < self.max_length <= longest:
            told = f"{shortened(self.max_length)} tokens that overlap by {shortened(self.doc_stride)}"
            faults.append(f"windows of {told} for a model of at most {longest} tokens")
        if named != graph_inputs(structure.token_types):
            faults.append(f"the inputs {shortened(named)} for a model with {structure.token_types} token types")
        if faults:
            raise BundleError(f"no bundle has {joined(faults, ', ')}")

    def why_closed(self, backend: str, precision: ComputePrecision) -> str | None:
        """Why this bundle must not run so; None where it may."""
        return next(
            (entry.reason for entry in self.closed if (entry.backend, entry.precision) == (backend, precision)), None
        )

    @property
    def derived(self) -> dict[str, Any]:
        return {"kind": MANIFEST_KIND, "schema": MANIFEST_SCHEMA}

    def to_json(self) -> str:
        body = data_from_record(self)
        body["fp16_range"] = body["fp16_range"] or {}
        return json.dumps({**body, "checksum": checksum(body)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse bundle.json. Raises BundleError when it is damaged, edited by hand, foreign or of another schema."""
        body = MANIFEST.parse(text, dict[str, Any])
        if body.get("kind") != MANIFEST_KIND:
            raise BundleError(f"{MANIFEST_NAME} was not written by densepack")
        if body.get("schema") not in _READABLE_SCHEMAS:
            raise BundleError(
                f"the bundle has schema {body.get('schema')!r} and this densepack reads {MANIFEST_SCHEMA}: build the "
                "bundle again, or install the densepack that wrote it"
            )
        if body.pop("checksum", None) != checksum(body):
            raise BundleError(
                f"{MANIFEST_NAME} was changed after it was written (its checksum differs): build it again"
            )
        return MANIFEST.record({**body, "fp16_range": body.get("fp16_range") or None}, cls)


def checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()


def find_faults(folder: Path, manifest: Manifest, *, hashes: bool) -> list[str]:
    """Everything in the folder that is not as the manifest says, a phrase each."""
    present = files_in(folder) - {MANIFEST_NAME}
    faults = [f"{name} is missing" for name in sorted(manifest.files.keys() - present)]
    faults += [f"{name} does not belong to it" for name in sorted(present - manifest.files.keys())]
    for name in sorted(present & manifest.files.keys()):
        try:
            fault = _file_fault(folder / name, manifest.files[name], hashes=hashes)
        except OSError as error:  # also a link that leads nowhere, or to itself
            fault = f"cannot be read ({error.strerror})"
        if fault:
            faults.append(f"{name} {fault}")
    return faults


def _file_fault(path: Path, entry: FileEntry, *, hashes: bool) -> str | None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a FIFO or a device may never end
        return "is no regular file"
    if status.st_size != entry.bytes:
        return f"has {status.st_size} bytes instead of {entry.bytes}"
    if hashes and sha256_of(path) != entry.sha256:
        return "is damaged (sha256 differs)"
    return None


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file below a folder, wherever the folder is."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
