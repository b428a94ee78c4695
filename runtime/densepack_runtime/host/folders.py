"""Writing folders so that they are there whole or not at all, and so that nobody's folder is lost.

    with new_folder(Path("bundle")) as temporary: ...

The new folder is made beside its place. Where there is one to replace, the two are exchanged in one step where the
system can; where it cannot, the old one is called `.NAME.….old` between two renames, and if the process ends there,
`left_aside` finds it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from densepack_runtime.errors import DensepackError, InputError, named
from densepack_runtime.host.files import current_umask, hidden_stem
from densepack_runtime.host.records import Document
from densepack_runtime.host.strict_json import read_small

# What a folder holds that its writer has not written; nothing where it may be replaced.
Strangers = Callable[[Path], Sequence[str]]

_STEM = 60
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
# A kernel or a file system that does not know these.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# A file system without hard links, another one, somebody else's file that the kernel protects, too many links.
_NO_LINK = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)


@contextmanager
def new_folder(path: Path, *, replaces: Strangers | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without an error; of a link, its target.

    A folder that is there is replaced only where `replaces` is given and finds no strangers in it; it is deleted last,
    and stays as it was after an error, Ctrl-C or on a full disk. Raises InputError for a folder that may not be
    replaced, before the block; after it, when one has appeared meanwhile, and then says where the result is.
    """
    place = Path(os.path.realpath(path))
    refuse_to_replace(path, replaces)
    if (old := left_aside(place)) is not None:
        warnings.warn(f"an earlier run was stopped while it replaced {path}: what was there is {old}", stacklevel=3)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=hidden_stem(place), suffix=".tmp"))
    try:
        yield temporary
        _make_readable(temporary)
        _put_in_place(temporary, place, replaces)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.exists():
            warnings.warn(f"{temporary} could not be removed: it is of no more use", stacklevel=3)


def refuse_new_folder(path: Path, replaces: Strangers | None = None) -> None:
    """Raise InputError or OSError, before long work, where `new_folder` would raise it after."""
    refuse_to_replace(path, replaces)
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryDirectory(dir=place.parent, prefix=hidden_stem(place), suffix=".tmp").cleanup()


def refuse_to_replace(path: Path, replaces: Strangers | None) -> None:
    """Raise InputError, with what was found, when something is at `path` that may not be replaced by a new folder."""
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is no folder, and a folder is to be written there: choose another name")
    if replaces is None:
        raise InputError(f"{path} exists already: choose another name, remove it, or pass --overwrite")
    if strangers := replaces(path):
        raise InputError(
            f"{path} is not replaced, since it holds {named(strangers, 3)}, which densepack does not "
            "write there: choose another name, or remove it yourself"
        )
    if path.is_mount():
        raise InputError(f"{path} is a mount point, which cannot be replaced: name a folder inside it")


def files_in(folder: Path) -> set[str]:
    """Names of everything below a folder but folders. A link to a folder is none: nobody looked into it."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def strangers_beside(listing: Document, kind: str, folder: Path) -> list[str]:
    """What a folder holds that the listing in it does not name; all of it, where it has no listing of that kind."""
    try:
        told = listing.parse(read_small(folder / listing.name), dict[str, Any])
        written = {listing.name, *told["files"]} if told["kind"] == kind else set()
    except (OSError, DensepackError, LookupError, TypeError):
        written = set()
    return sorted(files_in(folder) - written)


def left_aside(path: Path) -> Path | None:
    """What was at `path` before a run that was stopped between two renames."""
    if path.exists():
        return None
    return next(path.parent.glob(f"{glob.escape(hidden_stem(path))}*.old"), None)


def link_or_copy(source: Path, target: Path) -> None:
    """The same content under a second name, in a folder that may be new; a copy where there can be no hard link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def _make_readable(folder: Path) -> None:
    """Give what is new in it the rights of new files; safetensors writes files that only their owner can read."""
    mask = current_umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        if path.is_dir() or path.stat().st_nlink == 1:  # others are linked from the folder that is replaced
            with suppress(PermissionError):  # a file system without rights
                path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _put_in_place(temporary: Path, place: Path, replaces: Strangers | None) -> None:
    """Rename the new folder to its place; afterwards `temporary` is what was there, or nothing."""
    try:
        refuse_to_replace(place, replaces)
        if place.exists():
            _exchange(temporary, place)
        else:
            _rename_new(temporary, place)
    except (InputError, OSError) as error:
        kept = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{place.name[:_STEM]}-"))
        temporary.rename(kept)  # onto an empty folder
        raise InputError(f"{place} was left as it is, and the result is {kept}: {error}") from error


def _exchange(temporary: Path, place: Path) -> None:
    if _renameat2(temporary, place, _RENAME_EXCHANGE):
        return
    aside = temporary.with_suffix(".old")
    place.rename(aside)
    try:
        temporary.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    aside.rename(temporary)


def _rename_new(temporary: Path, place: Path) -> None:
    if not _renameat2(temporary, place, _RENAME_NOREPLACE):
        temporary.rename(place)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Linux's rename that exchanges or never replaces; False where there is none. See rename(2)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(target))
