"""A bundle: the folder that a production host needs, and nothing more.

    bundle.json       the manifest: hash and size of every other file, the model, its tensors, its engines, the verdict
    tokenizer.json    model.onnx (FP32)    model.fp16.onnx    engines/*.plan    reference.npz    parity.json
    report.html

A bundle is written to a temporary folder and renamed last, so it is there whole or not at all. Opening one checks
every file against the manifest, and the manifest against its own checksum; all faults are named in one BundleError.

    bundle = Bundle.open("bundle/")
    bundle.path("model.onnx"), bundle.manifest.max_length
"""

from __future__ import annotations

import hashlib
import json
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from reprlib import repr as shortened
from typing import Any

from densepack_runtime.errors import BundleError, joined
from densepack_runtime.host.files import sha256_of
from densepack_runtime.host.folders import files_in, left_aside, link_or_copy, new_folder, strangers_beside
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.host.strict_json import read_small
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


class UnprovenBundleWarning(UserWarning):
    """Nobody has shown that the bundle answers like its checkpoint."""


class UncheckedBundleWarning(UnprovenBundleWarning):
    """The bundle was built without a parity check."""


class FailedBundleWarning(UnprovenBundleWarning):
    """The last parity check of the bundle failed."""


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
        return json.dumps({**body, "checksum": _checksum(body)}, indent=1) + "\n"

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
        if body.pop("checksum", None) != _checksum(body):
            raise BundleError(
                f"{MANIFEST_NAME} was changed after it was written (its checksum differs): build it again"
            )
        return MANIFEST.record({**body, "fp16_range": body.get("fp16_range") or None}, cls)


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: a folder whose files are those of its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True, strict: bool = False) -> Bundle:
        """Open and verify a bundle. Raises BundleError that names every damaged, missing or foreign file.

        `verify=False` skips the hashes (for a host that verified the bundle when it was installed); missing and
        foreign files and wrong sizes are still found. Warns with an UnprovenBundleWarning after `--no-parity`, and
        where the last check failed; `strict` refuses both.
        """
        folder = Path(folder)
        try:
            manifest = Manifest.from_json(read_small(folder / MANIFEST_NAME))
            faults = find_faults(folder, manifest, hashes=verify)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(_why_none(folder)) from error
        except OSError as error:
            raise BundleError(f"the bundle {folder} cannot be read: {error}") from error
        if faults:
            raise BundleError(f"the bundle {folder} is not as it was built: {joined(faults)}")
        if unproven := _why_unproven(manifest.parity):
            kind, reason = unproven
            if strict:
                raise BundleError(f"the bundle {folder} is not proven: {reason}")
            warnings.warn(f"the bundle {folder} {reason}", kind, stacklevel=2)
        return cls(folder=folder, manifest=manifest)

    @property
    def sha256(self) -> str:
        """A digest of what decides how it runs: every file but the verdict and the page, and what the build closed."""
        told = (PARITY_NAME, REPORT_NAME)
        files = {name: entry.sha256 for name, entry in self.manifest.files.items() if name not in told}
        return _checksum({"files": files, "closed": data_from_record(self.manifest.closed)})

    def path(self, name: str) -> Path:
        """The path of a file of the bundle. Raises BundleError when the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle {self.folder} has no {name}; it has {', '.join(sorted(self.manifest.files))}"
            )
        return self.folder / name

    @property
    def tokenizer_json(self) -> str:
        """The text of the tokenizer. Raises BundleError when it cannot be read."""
        path = self.path("tokenizer.json")
        try:
            return read_small(path).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error

    def graph(self, precision: Precision) -> Path:
        """The ONNX file of a precision. Raises BundleError when the bundle has none."""
        return self.path(ONNX_NAMES[precision])

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that the bundle holds an ONNX graph for."""
        return tuple(precision for precision, name in ONNX_NAMES.items() if name in self.manifest.files)


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


def _why_unproven(parity: ParityEntry) -> tuple[type[UnprovenBundleWarning], str] | None:
    """What is wrong with the stored verdict, if anything is."""
    if not parity.checked:
        return (
            UncheckedBundleWarning,
            "was built with --no-parity: nothing shows that it answers like its checkpoint",
        )
    if not parity.passed:
        return (
            FailedBundleWarning,
            f"failed its last parity check ({joined([parity.summary])}): it may answer unlike its checkpoint",
        )
    return None


def _why_none(folder: Path) -> str:
    """Why a folder is no bundle, and what to do about it."""
    if (aside := left_aside(folder.resolve())) is not None:
        return f"{folder} is not there: a run was stopped while it replaced it. Rename {aside}"
    return f"{folder} is not a bundle: it has no {MANIFEST_NAME}. Make one: densepack build CHECKPOINT BUNDLE"


def strangers_in(folder: Path) -> list[str]:
    """What a folder holds that no build wrote: everything, where it is no bundle. Such a folder is not replaced."""
    return strangers_beside(MANIFEST, MANIFEST_KIND, folder)


@contextmanager
def write_bundle(folder: Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator[BundleDraft]:
    """Write a bundle: put its files into the draft; when the block ends without an error the bundle is there whole."""
    with new_folder(folder, replaces=strangers_in if overwrite else None) as temporary:
        draft = BundleDraft(temporary, manifest)
        yield draft
        draft.finish()


@contextmanager
def edit_bundle(bundle: Bundle) -> Iterator[BundleDraft]:
    """Change a bundle: a draft that starts with all its files and replaces it whole when the block ends.

    Files are hard links to the old ones: replace them (write elsewhere and rename), never write into them. Raises
    BundleError when another process has changed the bundle since it was opened; its change stays.
    """
    with write_bundle(bundle.folder, bundle.manifest, overwrite=True) as draft:
        for name in bundle.manifest.files:
            draft.path(name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(bundle.folder / name, draft.path(name))
        yield draft
        if Manifest.from_json(read_small(bundle.folder / MANIFEST_NAME)) != bundle.manifest:
            raise BundleError(f"the bundle {bundle.folder} was changed by another process meanwhile: run it again")


@dataclass
class BundleDraft:
    """A bundle that is being written. Assign `manifest` as more becomes known; hashes are taken at the end."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Where to write a file of the bundle."""
        return self.folder / name

    def as_bundle(self) -> Bundle:
        """The draft as it is now, to be checked before it is finished."""
        self.finish()
        return Bundle(self.folder, self.manifest)

    def finish(self) -> None:
        """Hash every file and write the manifest."""
        names = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        entries = {
            name: FileEntry(sha256_of(self.path(name)), self.path(name).stat().st_size)
            for name in names
            if name != MANIFEST_NAME
        }
        self.manifest = replace(self.manifest, files=entries)
        self.path(MANIFEST_NAME).write_text(self.manifest.to_json(), encoding="utf-8")
