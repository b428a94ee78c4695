"""What may happen to files: bytes changed or cut, odd JSON, things in their place that are no files.

Every function takes a random generator and changes what it is given; `ending` runs what has to bear it.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from densepack_runtime.errors import DensepackError
from tests.faults.kinds.kind import REFUSED, TRACEBACK

# A try takes well under a second; one that waits, or works on a size that nothing has, is broken.
SECONDS = 20
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e30, float("nan")),
    *("", "x", "../x", "/etc/passwd", "a\0b", "x" * 100_000, "\ud800", "[red]", "é", "9" * 5000, "🙂"),
    *([], {}, [[]], [None], {"": None}, [0] * 10_000, ["x"] * 10_000, {"type": "Sequence"}, [[[[[[[[1]]]]]]]]),
)


def flip_or_cut(rng: random.Random, path: Path) -> None:
    """Some bytes changed, cut off, put in or appended."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) + 1)
    match rng.randrange(4):
        case 0:
            for _ in range(rng.choice((1, 1, 8))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[place:]
        case 2:
            data[place:place] = rng.randbytes(rng.choice((1, 8, 4096)))
        case 3:
            data[place : place + 64] = bytes(64)
    path.write_bytes(bytes(data))


def put_something_else(rng: random.Random, path: Path) -> None:
    """No file any more, or what is none."""
    path.unlink(missing_ok=True)
    match rng.randrange(7):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to("nowhere")
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.mkdir()
        case 5:
            path.touch()


def odd_text(rng: random.Random, text: str) -> bytes:
    """A JSON object that is none, or that readers do not agree about."""
    body = text.strip().removeprefix("{")
    return rng.choice(
        (
            text.encode("utf-8-sig"),
            text.encode("utf-16"),
            b"[" * 100_000,
            b'{"a": ' * 50_000,
            b"9" * 5000,
            b"",
            b"null",
            text.encode() + b"}",
            b'{"vocab_size": NaN, ' + body.encode(),
            b'{"x": 1, "x": 2, ' + body.encode(),
            b'{"layers": ' + b"9" * 5000 + b", " + body.encode(),
            b'{"max_length": 1e999, ' + body.encode(),
            b'{"kind": "\\ud800", ' + body.encode(),
            b'{"kind": "\xff", ' + body.encode(),
        )
    )


def hostile_json(rng: random.Random, document: Any) -> Any:
    """A copy with one or two places dropped, or holding what nobody expects there."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        *way, last = rng.choice(list(_places(changed)) or [("x",)])
        holder = changed
        for step in way:
            holder = holder[step]
        if rng.random() < 0.2:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(rng.choice(HOSTILE))
    return changed


def _places(document: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to everything in a document; of a long list or object, to its first entries."""
    keys = list(document)[:40] if isinstance(document, dict) else range(min(len(document), 8))
    for key in keys:
        yield (*way, key)
        if isinstance(document[key], dict | list):
            yield from _places(document[key], (*way, key))


def hostile_json_file(rng: random.Random, path: Path) -> None:
    """A JSON file with odd values in some places, or an odd text."""
    text = path.read_text(encoding="utf-8")
    if rng.random() < 0.3:
        path.write_bytes(odd_text(rng, text))
    else:
        path.write_text(json.dumps(hostile_json(rng, json.loads(text))), encoding="utf-8")


def fresh_copy(source: Path, target: Path) -> Path:
    """A copy that may be damaged, in the place of an earlier one."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def ending(attempt: Callable[[], str]) -> str:
    """What an attempt says, or how it failed."""
    try:
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt()
    except DensepackError:
        return REFUSED
    except BaseException as error:  # a panic of a native library is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{TRACEBACK}: {type(error).__name__}: {str(error)[:200]}"


@contextmanager
def _time_limit() -> Iterator[None]:
    def too_late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
