"""Every command that writes, into places that are full or may not be written: one line, and nothing half-written."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, start
from tests.faults.kinds.kind import HALF, LOST, REFUSED, TRACEBACK, kind

NOBODY = 65534
# Of a disk or of one file; the outputs of the commands are larger, but for two.
SMALL = 2 * 4096


@dataclass(frozen=True, slots=True)
class Place:
    """`made` makes of a folder one that cannot take the output; `within` is run in the process of the command."""

    name: str
    made: Callable[[Path], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    within: Callable[[], None] | None = None
    for_root: bool = True


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    """The folder on a file system of its own, with what was in it."""
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        inside = list(folder.rglob("*"))
        used = sum(path.stat().st_blocks * 512 for path in inside if path.is_file())
        limits = options.format(size=used + SMALL, inodes=len(inside) + 2)
        subprocess.run(["mount", "-o", f"remount,{limits}", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
        kept.rename(folder)


@contextmanager
def _of_nobody(folder: Path) -> Iterator[None]:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield


def _without_override() -> None:
    """Let root be refused like anybody else; see capabilities(7) and capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for place in range(3):  # of the first 32 capabilities: effective, permitted, inheritable
        sets[place] &= ~(1 << 1 | 1 << 2 | 1 << 3)  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
    assert libc.capset(header, sets) == 0


def _limited(number: int, limit: int) -> None:
    resource.setrlimit(number, (limit, limit))


PLACES = (
    Place("a limit for files (as a quota)", within=partial(_limited, resource.RLIMIT_FSIZE, SMALL), for_root=False),
    Place("a full disk", partial(_mounted, options="size={size}")),
    Place("a disk with no more files", partial(_mounted, options="nr_inodes={inodes}")),
    Place("a read-only disk", partial(_mounted, options="ro")),
    Place("a folder of somebody else", _of_nobody, _without_override),
)


@kind("full and read-only places", tries=len(PLACES) * len(COMMANDS), quick=1)
def places(seed: int, folder: Path) -> Iterator[str]:
    for number, (place, name) in enumerate(itertools.cycle(itertools.product(PLACES, COMMANDS))):
        command, home = COMMANDS[name], folder / f"home-{number}"
        command.prepare(home)
        if place.for_root and os.geteuid() != 0:
            yield f"{place.name}: not tried, only root can make it"
            continue
        with place.made(home):
            yield f"{place.name}: {_one(command, home, place, folder / f'log-{number}')}"


def _one(command: Command, home: Path, place: Place, log: Path) -> str:
    before = _content(home)
    log.touch()
    log.chmod(0o666)
    running = start(command.command_line(home), log, place.within)
    code = running.wait()
    after = _content(home)
    errors = [line for line in running.told.splitlines() if line.startswith("error: ")]
    if code == 0:
        command.check(command.output(home))
        return "there was room"
    if "Traceback" in running.told or len(errors) != 1 or code != 1:
        return f"{TRACEBACK}: {command.name} ({code}): {running.told[-400:]}"
    if lost := before.keys() - after.keys():
        return f"{LOST}: {command.name}: {sorted(lost)}"
    if changed := [name for name in before if before[name] != after[name]]:
        return f"{HALF}: {command.name}: {changed}"
    if new := [name for name in after.keys() - before.keys() if not name.startswith(("out.state/", "bundle.cache/"))]:
        return f"{HALF}: {command.name}: {new}"
    return REFUSED


def _content(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}
