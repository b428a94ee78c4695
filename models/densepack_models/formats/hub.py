"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub that is fetched into the hub's own cache.

The small files come first, so that a model of the wrong kind is refused before its weights are downloaded; then
safetensors weights, and PyTorch's pickles only where there are none.

    location = locate_checkpoint("organisation/model")       # config, tokenizer, indexes
    fetch_weights(location)                                   # nothing to do for a folder
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.errors import CheckpointError, require

SMALL_FILES = (
    "config.json",
    "structure.json",
    "sparse_args.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_FILES = ("model.safetensors", "model-*.safetensors")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model-*.bin")
# "name" or "organisation/name" as the hub allows it; its client checks the finer rules (length, "--", "..").
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """A folder with a checkpoint. `source` names it in manifests: hub id@commit, or the folder's name."""

    folder: Path
    source: str
    hub_id: str | None = None


def locate_checkpoint(path_or_hub_id: str | Path, revision: str | None = None) -> Location:
    """Find the folder of a checkpoint; for a hub id fetch its small files. Raises CheckpointError.

    An existing folder always wins. A `Path`, or a text that cannot be a hub id, never reaches for the network.
    """
    path = _local_path(path_or_hub_id)
    if path is not None and path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision {revision!r} is for hub ids, and {path_or_hub_id} is a folder: leave it out"
            )
        return Location(path, path.resolve().name)
    if path is not None:
        raise CheckpointError(f"{path_or_hub_id} is a file: give the folder that holds config.json and the weights")
    hub_id = str(path_or_hub_id)
    if isinstance(path_or_hub_id, Path) or not _is_hub_id(hub_id):
        raise CheckpointError(f"there is no folder {path_or_hub_id}, and it cannot be a hub id (organisation/name)")
    folder = _fetch(hub_id, revision, SMALL_FILES)
    return Location(folder, f"{hub_id}@{folder.name}", hub_id)  # the hub's cache names snapshots by commit


def _local_path(path_or_hub_id: str | Path) -> Path | None:
    """What is there under this name, or None. Raises CheckpointError where that cannot even be looked up."""
    if not str(path_or_hub_id):
        raise CheckpointError("the name of the checkpoint is empty: give a folder or a hub id (organisation/name)")
    try:
        path = Path(path_or_hub_id).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long, ~ of an unknown user
        raise CheckpointError(f"{path_or_hub_id} cannot be looked up: {error}") from error


def fetch_weights(location: Location) -> None:
    """Fetch the weight files of a hub checkpoint at the commit that was located. Raises CheckpointError."""
    if location.hub_id is None:
        return
    commit = location.folder.name
    _fetch(location.hub_id, commit, SAFETENSORS_FILES)
    if not any(match for pattern in SAFETENSORS_FILES for match in location.folder.glob(pattern)):
        _fetch(location.hub_id, commit, PICKLE_FILES)


def _is_hub_id(text: str) -> bool:
    if not _HUB_ID.fullmatch(text):
        return False
    try:
        require("huggingface_hub.utils", "export").validate_repo_id(text)
    except require("huggingface_hub.errors", "export").HFValidationError:
        return False
    return True


def _fetch(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder in the hub's cache with the files that match; honours HF_HUB_OFFLINE and shows the hub's progress."""
    hub, errors = require("huggingface_hub", "export"), require("huggingface_hub.errors", "export")
    at = f"{hub_id!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"the hub's model {at} is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {hub_id!r} here and no such model on the hub (or it is private): check the name, or "
            "log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"the hub's model {hub_id!r} has no revision {revision!r}: check the branch, tag or commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(_not_in_cache(at, offline=hub.is_offline_mode())) from error
    except (*errors.HfHubHTTPError.__bases__, errors.EntryNotFoundError) as error:
        # The bases are OSError and the error root of whichever HTTP library this version of the client uses.
        raise CheckpointError(
            f"the hub's model {at} could not be fetched ({type(error).__name__}: {error}): try again"
        ) from error


def _not_in_cache(at: str, *, offline: bool) -> str:
    if offline:
        return (
            f"there is no folder {at} here, and the hub's cache does not hold it (or not whole) while HF_HUB_OFFLINE "
            "is set: unset it, or give the folder of a checkpoint"
        )
    return (
        f"there is no folder {at} here, and the hub cannot be reached to look for it: check the network, or give the "
        "folder of a checkpoint"
    )
