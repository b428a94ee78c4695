"""A bundle as one file: a plain tar with the manifest first, and then the files that it lists and nothing else.

    write_archive(bundle.folder, bundle.manifest, Path("bundle.tar"))
    manifest = Manifest.from_json(read_manifest(path))
    unpack(path, manifest, folder)                             # the caller compares hashes

An archive may come from anybody. Only the 512 bytes of plain headers are read, and none of what tar files may hold
besides: links, devices, folders, sparse files, further headers. Its size and all of its headers are compared with the
manifest before anything is written, so that it can neither write elsewhere nor take more room than it has itself.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from reprlib import repr as shortened
from typing import BinaryIO

from densepack_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from densepack_runtime.errors import BundleError
from densepack_runtime.host.files import new_file
from densepack_runtime.host.strict_json import LARGEST_BYTES

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_PIECE = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}


def write_archive(folder: Path, manifest: Manifest, out: Path) -> None:
    """Write a bundle's files into one: the same bytes for the same bundle. Raises BundleError for what no tar holds."""
    with new_file(out) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in (MANIFEST_NAME, *sorted(manifest.files)):
            info = tarfile.TarInfo(name)
            info.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                try:
                    archive.addfile(info, file)
                except ValueError as error:  # a name of more than 255 bytes, a file of more than 8 GiB
                    raise BundleError(f"{shortened(name)} cannot be put into an archive: {error}") from error


def read_manifest(path: Path) -> bytes:
    """The text of bundle.json, the first file of an archive. Raises BundleError, OSError."""
    with path.open("rb") as file:
        name, size = _header(file)
        if name != MANIFEST_NAME or not 0 <= size <= LARGEST_BYTES:
            raise BundleError(_refused(file, f"it begins with {size:,} bytes of {shortened(name)}"))
        text = file.read(size)
    if len(text) < size:
        raise BundleError(_refused(file, f"it ends within {MANIFEST_NAME}"))
    return text


def unpack(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write the files of an archive into a folder. Raises BundleError before that, for what is not as the manifest is.

    Contents are as they come: their hashes are for the caller to compare.
    """
    with path.open("rb") as file:
        for name, (start, size) in _places(file, manifest).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            file.seek(start)
            with (folder / name).open("xb") as target:
                while size > 0:
                    piece = file.read(min(size, _PIECE))
                    if not piece:
                        raise BundleError(_refused(file, f"it ends within {shortened(name)}"))
                    target.write(piece)
                    size -= len(piece)


def _places(file: BinaryIO, manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Start and size of every file."""
    _, manifest_size = _header(file)
    sizes = {MANIFEST_NAME: manifest_size, **{name: entry.bytes for name, entry in manifest.files.items()}}
    has, needs = os.fstat(file.fileno()).st_size, _archive_bytes(sizes.values())
    if has != needs:
        raise BundleError(_refused(file, f"it has {has:,} bytes, and its files make {needs:,}"))
    file.seek(0)
    places: dict[str, tuple[int, int]] = {}
    for _ in sizes:
        name, size = _header(file)
        if name in places or sizes.get(name) != size:
            why = "a second time" if name in places else "which its manifest does not list so"
            raise BundleError(_refused(file, f"it holds {shortened(name)} of {size:,} bytes {why}"))
        places[name] = file.tell(), size
        file.seek(_padded(size), os.SEEK_CUR)
    if any(file.read()):
        raise BundleError(_refused(file, "more follows after the last file"))
    return places


def _archive_bytes(sizes: Iterable[int]) -> int:
    content = sum(_BLOCK + _padded(size) for size in sizes) + 2 * _BLOCK
    return -(-content // _RECORD) * _RECORD


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _header(file: BinaryIO) -> tuple[str, int]:
    """Name and size of the file that begins here. Raises BundleError for what is no plain file."""
    block = file.read(_BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        packer = next((packer for magic, packer in _COMPRESSED.items() if block.startswith(magic)), None)
        told = f"it is compressed with {packer}" if packer else f"there is no header where one belongs ({error})"
        raise BundleError(_refused(file, told)) from error
    if info.type != tarfile.REGTYPE:
        raise BundleError(_refused(file, f"{shortened(info.name)} in it is no plain file (type {info.type!r})"))
    return info.name, info.size


def _refused(file: BinaryIO, fault: str) -> str:
    return f"{file.name} is no archive of a bundle, {fault}: write it with densepack archive, and copy it whole"
