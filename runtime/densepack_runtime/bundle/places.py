"""Where a bundle is: a folder, an archive, or a repository of the Hugging Face hub.

    locate_bundle("bundle"), locate_bundle("bundle.tar"), locate_bundle("owner/name@v1")

What is no folder becomes one: `bundles/HASH` in the cache, named after the hash of its manifest, so that the same
bundle is there once, whatever it came as, and another one is never mistaken for it. It is written beside its place,
compared with its manifest, and renamed last. Nothing there is changed after that; all of it may be removed at any
time.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from densepack_runtime.bundle.archive import read_manifest, unpack
from densepack_runtime.bundle.manifest import MANIFEST_NAME, Manifest, find_faults
from densepack_runtime.errors import BundleError, joined
from densepack_runtime.host.folders import left_aside, link_or_copy, new_folder
from densepack_runtime.host.hub import Repository, Wanted, fetch, fetch_file
from densepack_runtime.host.strict_json import read_small
from densepack_runtime.host.user_cache import CACHE_VARIABLE, user_cache

WANTED = Wanted("bundle", BundleError)
_KEPT = "bundles"
_HASH = re.compile(r"[0-9a-f]{64}")


def locate_bundle(name: str | Path) -> Path:
    """The folder of a bundle, which nobody has looked into yet where it is one. Raises BundleError, OSError.

    What is there under that name always wins. A `Path`, or a text that cannot be `owner/name` or `owner/name@revision`,
    never reaches for the network.
    """
    path = Path(name)
    if path.is_file():
        text = read_manifest(path)
        return _kept(name, text, lambda manifest, folder: unpack(path, manifest, folder))
    known = isinstance(name, Path) or path.exists() or left_aside(path.resolve()) is not None
    repository = None if known else repository_named(str(name))
    return path if repository is None else _of_hub(repository)


def repository_named(text: str) -> Repository | None:
    """The repository of a bundle: it has an owner, since a single word is more often a folder that is not there."""
    return Repository.named(text) if "/" in text else None


def in_cache(folder: Path) -> bool:
    """Whether a bundle's folder is a copy of what is elsewhere, told by its name, whatever is the cache now."""
    place = folder.resolve()
    return place.parent.name == _KEPT and _HASH.fullmatch(place.name) is not None


def _of_hub(repository: Repository) -> Path:
    path = fetch_file(repository, MANIFEST_NAME, WANTED)
    if path is None:
        raise BundleError(
            f"the hub's model {repository} is no bundle: it has no {MANIFEST_NAME}. Make one of a checkpoint: "
            f"densepack build {repository.name} BUNDLE"
        )
    text, folder = read_small(path), path.parent
    at = Repository(repository.name, folder.name)  # the hub's cache names snapshots by commit

    def fill(manifest: Manifest, target: Path) -> None:
        fetch(at, [glob.escape(name) for name in manifest.files], WANTED)
        for name in manifest.files:
            if (folder / name).is_file():  # what is not is told with all other faults
                link_or_copy((folder / name).resolve(), target / name)
        (target / MANIFEST_NAME).write_bytes(text)

    return _kept(at, text, fill)


def _kept(source: object, text: bytes, fill: Callable[[Manifest, Path], None]) -> Path:
    """The folder of the cache for a manifest; where it is not there, `fill` puts the files into a new one."""
    place = user_cache() / _KEPT / hashlib.sha256(text).hexdigest()
    try:
        if (place / MANIFEST_NAME).is_file() and read_small(place / MANIFEST_NAME) == text:
            return place
        manifest = Manifest.from_json(text)
        with new_folder(place, replaces=lambda _: ()) as temporary:  # of another process: the same
            fill(manifest, temporary)
            if faults := find_faults(temporary, manifest, hashes=True):
                raise BundleError(f"the bundle {source} is not as it was built: {joined(faults)}")
    except OSError as error:
        raise BundleError(
            f"the bundle {source} cannot be kept in {place.parent}: {error}. {CACHE_VARIABLE} names another folder"
        ) from error
    return place
