"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub that is fetched into the hub's own cache.

The small files come first, so that a model of the wrong kind is refused before its weights are downloaded; then
safetensors weights, and PyTorch's pickles only where there are none.

    location = locate_checkpoint("organisation/model")       # config, tokenizer, indexes
    fetch_weights(location)                                   # nothing to do for a folder
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from densepack_models.formats.tokenizer import TOKENIZER_FILES
from densepack_runtime.errors import CheckpointError
from densepack_runtime.host.hub import Repository, Wanted, fetch

SMALL_FILES = (
    "config.json",
    "structure.json",
    "sparse_args.json",
    *TOKENIZER_FILES,
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_FILES = ("model.safetensors", "model-*.safetensors")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model-*.bin")
_WANTED = Wanted("checkpoint", CheckpointError)


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
    repository = _repository(path_or_hub_id, revision)
    folder = fetch(repository, SMALL_FILES, _WANTED)
    # The hub's cache names snapshots by commit.
    return Location(folder, f"{repository.name}@{folder.name}", repository.name)


def _repository(path_or_hub_id: str | Path, revision: str | None) -> Repository:
    repository = None if isinstance(path_or_hub_id, Path) else Repository.named(path_or_hub_id)
    if repository is None:
        raise CheckpointError(
            f"there is no folder {path_or_hub_id}, and it cannot be a hub id (organisation/name, or with @revision)"
        )
    if revision is not None and repository.revision is not None:
        raise CheckpointError(f"{path_or_hub_id} names a revision, and so does {revision!r}: leave one out")
    return repository if revision is None else replace(repository, revision=revision)


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
    repository = Repository(location.hub_id, location.folder.name)
    fetch(repository, SAFETENSORS_FILES, _WANTED)
    if not any(match for pattern in SAFETENSORS_FILES for match in location.folder.glob(pattern)):
        fetch(repository, PICKLE_FILES, _WANTED)
