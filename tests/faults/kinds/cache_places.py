"""Caches in odd places: taken, dangling, read-only, full, unreadable, damaged. An answer never depends on one."""

from __future__ import annotations

import itertools
import logging
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np

from densepack_runtime.errors import DensepackError
from densepack_runtime.sessions.openvino_session import OpenVinoSession
from densepack_runtime.sessions.options import SessionOptions
from tests.faults.kinds.kind import REFUSED, TRACEBACK, WRONG, kind
from tests.runtime.sessions.test_onnxruntime_session import make_batch, save_graph

Place = Callable[[Path, Path, random.Random], AbstractContextManager[Path]]
TOO_SMALL = "size=4k"  # less than any compiled graph


@kind("caches in odd places", tries=120, quick=14)
def caches_in_odd_places(seed: int, folder: Path) -> Iterator[str]:
    rng = random.Random(seed)
    graph = save_graph(folder / "model.onnx")
    for number, (name, place) in enumerate(itertools.cycle(PLACES.items())):
        own = folder / str(number)
        own.mkdir()
        with place(own, graph, rng) as cache:
            yield f"{_ending(graph, cache)}: {name}"


def _ending(graph: Path, cache: Path) -> str:
    batch, told = make_batch(2, 7), _Told()
    logging.getLogger("densepack").addHandler(told)
    try:
        with OpenVinoSession(graph, options=SessionOptions(threads=1, cache=cache)) as session:
            logits = session.run(batch)
    except DensepackError:
        return REFUSED
    except Exception as error:  # noqa: BLE001  what the kind counts
        return f"{TRACEBACK} {error}"
    finally:
        logging.getLogger("densepack").removeHandler(told)
    if not np.array_equal(logits.start, batch.input_ids + batch.attention_mask):
        return WRONG
    return ("answered, nothing to say", "answered, and said once", f"{WRONG}, said twice")[min(told.count, 2)]


class _Told(logging.Handler):
    """Counts warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.levelno >= logging.WARNING


def _warm(cache: Path, graph: Path) -> Path:
    OpenVinoSession(graph, options=SessionOptions(threads=1, cache=cache)).close()
    [blob] = cache.rglob("*.blob")
    return blob


def _made(make: Callable[[Path], object]) -> Place:
    """A place that `make` spoils before anybody has used it."""

    @contextmanager
    def place(own: Path, _graph: Path, _rng: random.Random) -> Iterator[Path]:
        make(own / "cache")
        yield own / "cache"

    return place


@contextmanager
def _below_a_file(own: Path, _graph: Path, _rng: random.Random) -> Iterator[Path]:
    (own / "file").touch()
    yield own / "file" / "cache"


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; a plain folder for whoever may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _read_only(own: Path, graph: Path, warm: bool) -> Iterator[Path]:
    with _mounted(own / "cache", "size=16m") as cache:
        if warm:
            _warm(cache, graph)
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], capture_output=True, check=False)
        yield cache


@contextmanager
def _damaged(own: Path, graph: Path, rng: random.Random) -> Iterator[Path]:
    blob = _warm(own / "cache", graph)
    content = bytearray(blob.read_bytes())
    if rng.random() < 0.5:
        content = content[: rng.randrange(len(content))]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    blob.write_bytes(content)
    yield own / "cache"


@contextmanager
def _taken(own: Path, graph: Path, _rng: random.Random) -> Iterator[Path]:
    blob = _warm(own / "cache", graph)
    blob.unlink()
    blob.mkdir()
    yield own / "cache"


@contextmanager
def _left_by_openvino(own: Path, graph: Path, _rng: random.Random) -> Iterator[Path]:
    """As earlier versions had OpenVINO keep it: a folder with a blob that nobody may write."""
    blob = _warm(own / "cache", graph)
    old = blob.with_suffix("")
    old.mkdir()
    blob.rename(old / "1.blob").chmod(0o440)
    yield own / "cache"


PLACES: dict[str, Place] = {
    "no cache yet": lambda own, _graph, _rng: nullcontext(own / "cache"),
    "a file": _made(Path.touch),
    "below a file": _below_a_file,
    "a link to nowhere": _made(lambda cache: cache.symlink_to("nowhere")),
    "a link to itself": _made(lambda cache: cache.symlink_to(cache)),
    "a device": _made(lambda cache: cache.symlink_to(os.devnull)),
    "a folder of the kernel": lambda own, _graph, _rng: nullcontext(Path("/proc") / own.name / "cache"),
    "a name too long": lambda own, _graph, _rng: nullcontext(own / ("long" * 99)),
    "read-only": lambda own, graph, _rng: _read_only(own, graph, warm=False),
    "read-only and warm": lambda own, graph, _rng: _read_only(own, graph, warm=True),
    "a full disk": lambda own, _graph, _rng: _mounted(own / "cache", TOO_SMALL),
    "a damaged file": _damaged,
    "a folder in place of the file": _taken,
    "left by an older densepack": _left_by_openvino,
}
