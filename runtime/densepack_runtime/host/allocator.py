"""One setting of glibc's allocator that a process with large, short-lived arrays needs.

By default glibc maps every large array afresh and returns it at once; on the shapes of BERT much of the time then goes
into page faults. Keeping freed memory makes PyTorch on a CPU faster (docs/speed.md). The command line does this at its
start; as a library densepack leaves the allocator of its host alone.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep and reuse freed memory, in one arena. Returns False where there is no glibc."""
    library = _glibc()
    if library is None:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, 64 * 2**20))
    accepted = [library.mallopt(option, value) == 1 for option, value in settings]
    return all(accepted)


def release_freed_memory() -> bool:
    """Give what was freed so far back to the system. Returns False where there is no glibc, or nothing to give."""
    library = _glibc()
    return library is not None and library.malloc_trim(0) == 1


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version") else None
