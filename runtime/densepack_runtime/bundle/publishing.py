"""Writes a bundle into a repository of the Hugging Face hub, as one commit: readers have the old one whole, or the new.

publish(bundle, Repository.named("owner/name"), card)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from densepack_runtime.bundle.folder import Bundle
from densepack_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from densepack_runtime.errors import BundleError
from densepack_runtime.host.hub import Repository, Wanted, told_failures

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
# In a card that `publish` may replace by a newer one; without it, somebody has written it.
CARD_MARK = "<!-- written by densepack push -->"
_WANTED = Wanted("bundle", BundleError, "written")
_NOT_ALLOWED = (401, 403)


def publish(
    bundle: Bundle, repository: Repository, card: str, *, replace_card: bool = False, private: bool = False
) -> Repository:
    """Write a bundle and its card, and return where they are: the repository at the new commit.

    A repository that is not there is made, a branch as well. Files of the bundle that was there go, those of nobody's
    stay, and so does a card that somebody wrote, unless `replace_card`. Raises BundleError.
    """
    import huggingface_hub as hub

    if hub.is_offline_mode():
        raise BundleError(f"{repository} cannot be written while HF_HUB_OFFLINE is set: unset it")
    name, branch = repository.name, repository.revision
    with told_failures(repository, _WANTED), _told_rights(name):
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True)
        there = set(api.list_repo_files(name, revision=branch))
        files = {name: bundle.folder / name for name in (MANIFEST_NAME, *bundle.manifest.files)}
        operations: list[hub.CommitOperationAdd | hub.CommitOperationDelete] = [
            hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=path) for file, path in files.items()
        ]
        gone = _files_of_old(api, repository, there) - files.keys()
        operations += [hub.CommitOperationDelete(path_in_repo=file, is_folder=False) for file in sorted(gone)]
        if replace_card or CARD not in there or CARD_MARK in _text(api, repository, CARD):
            operations.append(hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
        told = f"densepack bundle of {bundle.manifest.model.name}"
        commit = api.create_commit(name, operations, commit_message=told, revision=branch)
    return Repository(name, commit.oid)


def _files_of_old(api: HfApi, repository: Repository, there: set[str]) -> set[str]:
    """What of a repository belongs to the bundle that is there."""
    if MANIFEST_NAME not in there:
        return set()
    return there & Manifest.from_json(_text(api, repository, MANIFEST_NAME)).files.keys()


def _text(api: HfApi, repository: Repository, name: str) -> str:
    path = api.hf_hub_download(repository.name, name, revision=repository.revision)
    return Path(path).read_text(encoding="utf-8", errors="replace")


@contextmanager
def _told_rights(name: str) -> Iterator[None]:
    """Who may not write hears of it, and not that there is no such repository."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code not in _NOT_ALLOWED:
            raise
        raise BundleError(
            f"the hub does not let you write {name!r}: log in with `hf auth login` as somebody who may, or set HF_TOKEN"
        ) from error
