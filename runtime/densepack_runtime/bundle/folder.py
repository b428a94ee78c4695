"""The folder of a bundle: opened and verified, written, changed.

A bundle is written to a temporary folder and renamed last, so it is there whole or not at all. Opening one checks
every file against the manifest, and the manifest against its own checksum; all faults are named in one BundleError.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from densepack_runtime.bundle.manifest import (
    MANIFEST,
    MANIFEST_KIND,
    MANIFEST_NAME,
    ONNX_NAMES,
    PARITY_NAME,
    REPORT_NAME,
    FileEntry,
    Manifest,
    ParityEntry,
    checksum,
    find_faults,
)
from densepack_runtime.bundle.places import in_cache, locate_bundle
from densepack_runtime.errors import BundleError, joined
from densepack_runtime.host.files import sha256_of
from densepack_runtime.host.folders import left_aside, link_or_copy, new_folder, strangers_beside
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.strict_json import read_small
from densepack_runtime.sessions.session import Precision


class UnprovenBundleWarning(UserWarning):
    """Nobody has shown that the bundle answers like its checkpoint."""


class UncheckedBundleWarning(UnprovenBundleWarning):
    """The bundle was built without a parity check."""


class FailedBundleWarning(UnprovenBundleWarning):
    """The last parity check of the bundle failed."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: a folder whose files are those of its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, name: str | Path, *, verify: bool = True, strict: bool = False) -> Bundle:
        """Open and verify a bundle: a folder, an archive (`bundle.tar`), or `owner/name`, `owner/name@revision` of the
        Hugging Face hub. Raises BundleError that names every damaged, missing or foreign file.

        What is no folder is copied into the cache and opened there. A folder of that name always wins, and a `Path`
        never reaches for the network. `verify=False` skips the hashes (for a host that verified the bundle when it was
        installed); missing and foreign files and wrong sizes are still found. Warns with an UnprovenBundleWarning after
        `--no-parity`, and where the last check failed; `strict` refuses both.
        """
        told = Path(name)
        try:
            folder = locate_bundle(name)
            manifest = Manifest.from_json(read_small(folder / MANIFEST_NAME))
            faults = find_faults(folder, manifest, hashes=verify)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(_why_none(told)) from error
        except OSError as error:
            raise BundleError(f"the bundle {told} cannot be read: {error}") from error
        if faults:
            cure = f". Remove {folder}, and it is had anew" if in_cache(folder) else ""
            raise BundleError(f"the bundle {told} is not as it was built: {joined(faults)}{cure}")
        if unproven := _why_unproven(manifest.parity):
            kind, reason = unproven
            if strict:
                raise BundleError(f"the bundle {told} is not proven: {reason}")
            warnings.warn(f"the bundle {told} {reason}", kind, stacklevel=2)
        return cls(folder=folder, manifest=manifest)

    @property
    def sha256(self) -> str:
        """A digest of what decides how it runs: every file but the verdict and the page, and what the build closed."""
        told = (PARITY_NAME, REPORT_NAME)
        files = {name: entry.sha256 for name, entry in self.manifest.files.items() if name not in told}
        return checksum({"files": files, "closed": data_from_record(self.manifest.closed)})

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


def refuse_copy(bundle: Bundle) -> None:
    """Raise BundleError for what is not to be changed, since it is the cache's copy of what is elsewhere."""
    if in_cache(bundle.folder):
        raise BundleError(
            f"{bundle.folder} is a copy of a bundle that is elsewhere, and is not changed: make one of your own with "
            "densepack download BUNDLE FOLDER, and change that"
        )


@contextmanager
def edit_bundle(bundle: Bundle) -> Iterator[BundleDraft]:
    """Change a bundle: a draft that starts with all its files and replaces it whole when the block ends.

    Files are hard links to the old ones: replace them (write elsewhere and rename), never write into them. Raises
    BundleError when another process has changed the bundle since it was opened; its change stays.
    """
    refuse_copy(bundle)
    with write_bundle(bundle.folder, bundle.manifest, overwrite=True) as draft:
        for name in bundle.manifest.files:
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
