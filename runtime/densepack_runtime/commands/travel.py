"""The commands `archive` and `download`: a bundle as one file, and a folder of one's own of a bundle from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from densepack_runtime.bundle import MANIFEST_NAME, Bundle, strangers_in
from densepack_runtime.bundle.archive import write_archive
from densepack_runtime.commands.options import BundleArgument, JsonOption, app
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_json, tell, tell_next
from densepack_runtime.host.files import refuse_new_file, sha256_of
from densepack_runtime.host.folders import new_folder, refuse_new_folder

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new one is whole.")]


@app.command()
def archive(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .tar to write.")],
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a bundle as one file, a plain .tar, which every command takes as it takes the folder.

    Example: densepack archive bundle bundle.tar
    """
    if out.is_file() and not overwrite:
        raise InputError(f"{out} exists already: choose another name, or pass --overwrite")
    refuse_new_file(out)
    opened = Bundle.open(bundle)
    write_archive(opened.folder, opened.manifest, out)
    size, digest = out.stat().st_size, sha256_of(out) if out.is_file() else ""
    if json_output:
        print_json({"archive": str(out), "bytes": size, "sha256": digest})
    tell(f"wrote {out}: {len(opened.manifest.files) + 1} files, {size / 1e6:.1f} MB, sha256 {digest}")
    tell_next(f"densepack prove {out}", "on the host that shall run it")


@app.command()
def download(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Make a folder of one's own, which may be changed, of a bundle on the hub or in an archive.

    Example: densepack download owner/name@v1 bundle
    """
    replaces = strangers_in if overwrite else None
    refuse_new_folder(out, replaces)
    opened = Bundle.open(bundle)
    with new_folder(out, replaces=replaces) as temporary:
        for name in (MANIFEST_NAME, *opened.manifest.files):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(opened.folder / name, temporary / name)
    if json_output:
        print_json({"bundle": str(out), "sha256": opened.sha256})
    tell(f"wrote {out}: {opened.manifest.model.name}, {len(opened.manifest.files) + 1} files")
    tell_next(f"densepack prove {out}", "whether it is right on this host, and how fast")
