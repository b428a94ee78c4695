"""JSON that anybody may have written: read whole only where it is small, and taken only for what it says.

Python's own reader takes NaN for a number, the last of two equal keys, 1e999 for infinity, and reads a FIFO for ever.

    document = parse_json(read_small(path))         # OSError: it cannot be read; ValueError: it is not JSON
"""

from __future__ import annotations

import errno
import json
import math
import stat
from collections import Counter
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NoReturn

# Far more than the largest vocabulary, manifest or index of shards takes.
LARGEST_BYTES = 64 << 20


def read_small(path: Path, most_bytes: int = LARGEST_BYTES) -> bytes:
    """The bytes of a file that is read whole. Raises OSError, also for what is no file and for what is too large."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):  # reading a FIFO or a device may never end
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if status.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, at most {most_bytes:,} are read", str(path))
    return path.read_bytes()


def parse_json(text: str | bytes, *, measured: bool = False) -> Any:
    """What a JSON text in UTF-8 holds. Raises ValueError with one line on what it has that JSON does not allow.

    Numbers that are none (NaN, Infinity) are read where they may have been `measured`, as in our own documents.
    """
    constant = float if measured else _refuse_constant
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if "\\u" in text:
        json.dumps(data, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text, and nothing can write it
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shortened(twice)} is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name} is none")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {shortened(digits)} is too large")
    return number
