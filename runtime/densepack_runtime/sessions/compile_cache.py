"""What backends compiled for this host, kept for the next start: whole, or not there.

    kept = KeptFile(cache / "openvino" / f"{digest(decides)}.blob")
    content = kept.read()                  # None: compile, then kept.write(…)

Processes share a cache without waiting for each other: what one keeps is finished beside its place and renamed into it.
A cache costs time and never an answer. Where one cannot be read or written, that is told once and everything is
compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.host.files import new_file
from densepack_runtime.host.user_cache import CACHE_VARIABLE

_LOGGER = logging.getLogger("densepack")
_CHECKSUM_BYTES = 4
_told: set[Path] = set()


def digest(decides: Mapping[str, Any]) -> str:
    """A name for what comes of these values; 16 hex digits."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of a cache. Its checksum is behind the content: backends take damaged weights and answer wrongly."""

    path: Path

    def read(self) -> NDArray[np.uint8] | None:
        """The content, writable and aligned as it was written; None where there is none that can be used."""
        try:
            if not self.path.is_file():
                return None
            data = np.fromfile(self.path, np.uint8)
        except OSError as error:
            _tell(self.path.parent, error)
            return None
        content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if _checksum(content.data) != checksum.tobytes():
            self.tell_useless("damaged")
            return None
        return content

    def write(self, content: bytes | memoryview) -> None:
        """Keep the content instead of what is there."""
        try:
            with new_file(self.path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.write(_checksum(content))
        except OSError as error:
            _tell(self.path.parent, error)

    def tell_useless(self, why: str) -> None:
        """Say that what was read cannot be used."""
        _LOGGER.warning("%s is %s: compiling anew", self.path, why)


class KeptFolder:
    """A folder of a cache that a backend fills by itself: its own while it does, everybody's to read from then on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own: Path | None = None

    def open(self) -> Path | None:
        """The folder, or one of our own to fill; None where none can be made."""
        if self.path.is_dir():
            return self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._own = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp"))
            self._own.chmod(self.path.parent.stat().st_mode)
        except OSError as error:
            _tell(self.path.parent, error)
        return self._own

    def close(self, *, keep: bool) -> None:
        """Keep what was put into our own folder, unless there is nothing or somebody was faster."""
        own, self._own = self._own, None
        if own is None:
            return
        try:
            if keep and any(own.iterdir()):
                own.rename(self.path)
        except OSError as error:
            if not self.path.is_dir():
                _tell(self.path.parent, error)
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")


def _tell(folder: Path, error: OSError) -> None:
    """Once for a folder: that nothing is kept in it, and why."""
    if folder not in _told:
        _told.add(folder)
        _LOGGER.warning(
            "nothing compiled is kept in %s (%s), every start compiles anew; --cache FOLDER or %s names another place",
            folder,
            error.strerror or error,
            CACHE_VARIABLE,
        )
