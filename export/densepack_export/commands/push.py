"""The command `push`: a bundle into a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densepack_runtime.bundle import Bundle
from densepack_runtime.bundle.places import repository_named
from densepack_runtime.bundle.publishing import publish
from densepack_runtime.commands.options import BundleArgument, JsonOption, app
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_json, tell, tell_next


@app.command()
def push(
    bundle: BundleArgument,
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", help="owner/name or owner/name@branch; what is not there is made.")
    ],
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own README.md; by default one that tells what the bundle is."),
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="The hub's licence id, like apache-2.0.", show_default=False)
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Where the repository is made: for you alone.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a bundle and its card to the Hugging Face hub, in one commit; from then on REPOSITORY is a BUNDLE.

    It takes the token of `hf auth login` or HF_TOKEN. Example: densepack push bundle owner/name --license apache-2.0
    """
    target = repository_named(repository)
    if target is None:
        raise InputError(f"{repository!r} names no repository of the hub: give owner/name or owner/name@branch")
    opened = Bundle.open(bundle)
    if card is None:
        from densepack_export.card.bundle_text import bundle_card

        text = bundle_card(opened.manifest, repository, license_id)
    else:
        text = _read(card)
    written = publish(opened, target, text, replace_card=card is not None, private=private)
    if json_output:
        print_json({"repository": target.name, "commit": written.revision, "sha256": opened.sha256})
    tell(f"wrote {target.name}@{written.revision}: {opened.manifest.model.name}")
    tell_next(f"densepack prove {repository}", "on the host that shall run it")


def _read(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the card {card} cannot be read: {error}") from error
