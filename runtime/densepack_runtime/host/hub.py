"""Repositories of the Hugging Face hub, in the hub's own cache: its progress bar, its tokens, HF_HUB_OFFLINE.

    repository = Repository.named("owner/name@v1")                   # None for a text that names none
    folder = fetch(repository, ["config.json"], Wanted("checkpoint", CheckpointError))

What a branch is now is asked of the hub each time; offline, and only then, the cache tells. Every failure of the hub's
client is one line of ours, without the tokens and passwords of the environment.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Self
from urllib.parse import urlsplit

from densepack_runtime.errors import DensepackError, joined

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# "name" or "owner/name" as the hub allows it; its client checks the finer rules (length, "--", "..").
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PASSWORD = re.compile(r"(?<=//)[^/\s@]*@")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for, in words, the error that tells why it is not to be had, and what was to be done with it."""

    noun: str
    error: type[DensepackError]
    deed: str = "fetched"


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository, at a branch, a tag or a commit; without one at its main branch."""

    name: str
    revision: str | None = None

    @classmethod
    def named(cls, text: str) -> Self | None:
        """What `owner/name` or `owner/name@revision` names; None for a text that cannot be either."""
        name, separator, revision = text.partition("@")
        if separator and not (_REVISION.fullmatch(revision) and ".." not in revision):
            return None
        return cls(name, revision or None) if _is_name(name) else None

    def __str__(self) -> str:
        return f"{self.name!r}" + (f" at revision {self.revision!r}" if self.revision else "")


def _is_name(text: str) -> bool:
    if not _NAME.fullmatch(text):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # loaded when it is asked for

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def fetch(repository: Repository, patterns: Sequence[str], wanted: Wanted) -> Path:
    """The folder of the hub's cache with the files that match, named by its commit. Raises what is wanted's error."""
    import huggingface_hub as hub

    with told_failures(repository, wanted):
        _look_up(repository)
        found = hub.snapshot_download(repository.name, revision=repository.revision, allow_patterns=list(patterns))
    return Path(found)


def fetch_file(repository: Repository, name: str, wanted: Wanted) -> Path | None:
    """One file in such a folder, without a progress bar; None where the repository has none of that name."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with told_failures(repository, wanted):
        _look_up(repository)
        try:
            return Path(hub.hf_hub_download(repository.name, name, revision=repository.revision))
        except LocalEntryNotFoundError:  # the hub's cache does not hold it, whether or not the hub does
            raise
        except EntryNotFoundError:
            return None


def _look_up(repository: Repository) -> None:
    """Raise where a branch cannot be asked for: the client would take what it was when last seen, and not say so."""
    import huggingface_hub as hub

    if not hub.is_offline_mode() and not _COMMIT.fullmatch(repository.revision or ""):
        hub.HfApi().model_info(repository.name, revision=repository.revision)


@contextmanager
def told_failures(repository: Repository, wanted: Wanted) -> Iterator[None]:
    """What the hub's client raises in the block becomes one line in wanted's error."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    name = repository.name
    try:
        yield
    except DensepackError:
        raise
    except errors.GatedRepoError as error:
        raise wanted.error(
            f"the hub's model {repository} is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise wanted.error(
            f"there is no folder {name!r} here and no such model on the hub (or it is private): check the name, or "
            "log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise wanted.error(
            f"the hub's model {name!r} has no revision {repository.revision!r}: check the branch, tag or commit"
        ) from error
    except Exception as error:  # of the HTTP library's own tree, or what the environment made it stumble over
        offline = hub.is_offline_mode()
        lacking = isinstance(error, errors.LocalEntryNotFoundError)
        faults = [] if offline and lacking else _environment_faults(error)
        if faults:
            told = f"the hub's model {repository} cannot be {wanted.deed}: {joined(faults)}"
        elif wanted.deed == "fetched" and (lacking or _unreachable(error)):
            told = _not_in_cache(repository, wanted, offline=offline)
        else:
            why = _PASSWORD.sub("", f"{type(error).__name__}: {error}")
            told = f"the hub's model {repository} could not be {wanted.deed} ({why}): try again"
        raise wanted.error(told) from error


def _unreachable(error: Exception) -> bool:
    """Whether no answer came; the client's HTTP library has changed, and its words for that have not."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _not_in_cache(repository: Repository, wanted: Wanted, *, offline: bool) -> str:
    if offline:
        return (
            f"there is no folder {repository} here, and the hub's cache does not hold it (or not whole) while "
            f"HF_HUB_OFFLINE is set: unset it, or give the folder of a {wanted.noun}"
        )
    return (
        f"there is no folder {repository} here, and the hub cannot be reached to look for it: check the network, set "
        f"HF_HUB_OFFLINE=1 to take what the hub's cache holds, or give the folder of a {wanted.noun}"
    )


# --- the environment, which the hub's client does not judge ---


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
