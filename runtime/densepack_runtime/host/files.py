"""Writing files so that nothing half-written is ever seen: to a temporary neighbour first, renamed last.

What is no file is not replaced by one: a device, a pipe (`>(…)`), a socket or a descriptor (`/dev/stdout`) is written
to, and of a symbolic link the target changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from densepack_runtime.errors import InputError

_DESCRIPTORS = re.compile(r"/proc/(\d+)(/task/\d+)?/fd")
# Of a name of 255 bytes, what leaves room for a prefix and a suffix.
_LONGEST_STEM = 200


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text to `path`; an error or a signal leaves what was there before."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path whose content becomes that of `path` when the block ends without an error.

    Raises InputError when `path` is a folder.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "content"
            yield temporary
            with temporary.open("rb") as content, _open_stream(path) as stream:
                shutil.copyfileobj(content, stream)
        return
    target = _place_of(path)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=hidden_stem(target), suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with suppress(PermissionError):  # a file system without rights
            temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~current_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_new_file(path: Path) -> None:
    """Raise InputError or OSError, before long work, where `new_file` would raise it after."""
    if not is_stream(path):
        tempfile.TemporaryFile(dir=_place_of(path).parent).close()


def _place_of(path: Path) -> Path:
    """Where a file that is called so is written, of a link its target; the folder above it is there then."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path} is a folder, and a file is to be written: name a file in it")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def hidden_stem(path: Path) -> str:
    """How the names of temporary neighbours of `path` begin."""
    return f".{os.fsdecode(os.fsencode(path.name)[:_LONGEST_STEM])}."


def current_umask() -> int:
    """The umask of this process (which can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- what is no file ----------------------------------------------------------------------------------------------


def is_stream(path: Path) -> bool:
    """Whether writing to `path` means writing into something that is there, and not making a file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _descriptor(path) is not None


def _open_stream(path: Path) -> BinaryIO:
    own = _descriptor(path)
    if own is not None:  # it may be a socket, which cannot be opened again, and it has a place in a file
        return os.fdopen(os.dup(own), "wb")
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            return connection.makefile("wb")
    return path.open("wb")


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout or /dev/fd/63 names."""
    while path.is_symlink():
        place = _DESCRIPTORS.fullmatch(os.path.realpath(path.parent))
        if place is not None:
            return int(path.name) if int(place[1]) == os.getpid() else None
        path = path.parent / path.readlink()
    return None
