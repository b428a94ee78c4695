"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub that is fetched into the hub's own cache.

The small files come first, so that a model of the wrong kind is refused before its weights are downloaded; then
safetensors weights, and PyTorch's pickles only where there are none.

    location = locate_checkpoint("organisation/model")       # config, tokenizer, indexes
    fetch_weights(location)                                   # nothing to do for a folder
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from urllib.parse import urlsplit

from densepack_runtime.errors import CheckpointError, joined, require

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
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
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
        offline = hub.is_offline_mode()
        faults = [] if offline else _environment_faults(error)
        raise CheckpointError(_at_fault(at, faults) if faults else _not_in_cache(at, offline=offline)) from error
    except Exception as error:  # of the HTTP library's own tree, or what the environment made it stumble over
        faults = _environment_faults(error)
        told = f"the hub's model {at} could not be fetched ({type(error).__name__}: {error}): try again"
        raise CheckpointError(_at_fault(at, faults) if faults else told) from error


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


# --- the environment, which the hub's client does not judge ---


def _at_fault(at: str, faults: Sequence[str]) -> str:
    return f"the hub's model {at} cannot be fetched: {joined(faults)}"


def _environment_faults(error: Exception) -> list[str]:
    """Variables that the hub's client cannot use, by name: their values hold passwords and tokens."""
    faults = []
    for name, value in sorted(os.environ.items()):
        if value and name.upper() in _PROXIES:
            faults += [f"{name} {fault}" for fault in _address_faults(value, _PROXY_SCHEMES)]
        elif value and name == "HF_ENDPOINT":
            faults += [f"{name} {fault}" for fault in _address_faults(value, ("http", "https"))]
        elif name in _TOKENS and not (value.strip().isascii() and value.strip().isprintable()):
            faults.append(f"{name} has characters that no token has: copy the token again")
        elif value and name == "SSL_CERT_FILE" and not Path(value).is_file():
            faults.append(f"{name} is {value}, where no file is: correct or unset it")
    if not faults and isinstance(error, UnicodeError):
        faults.append("the token that is stored has characters that no token has: log in again with `hf auth login`")
    return faults


def _address_faults(url: str, schemes: Sequence[str]) -> Iterator[str]:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http", url  # as the client takes it
    if scheme not in schemes:
        yield f"has the scheme {shortened(scheme)}, one of {', '.join(schemes)} is needed: correct or unset it"
    elif scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        library = "httpx2" if "httpx2" in sys.modules else "httpx"  # newer versions of the hub's client took to it
        yield f"is a SOCKS proxy, for which a package is missing: pip install '{library}[socks]', or unset it"
    if not _has_host_and_port(f"http://{rest}"):
        yield "has no host or no valid port: correct or unset it"


def _has_host_and_port(url: str) -> bool:
    try:
        address = urlsplit(url)
        return bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is no number or too large, a bracket that is not closed
        return False
