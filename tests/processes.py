"""What other processes do, as Linux tells it in /proc."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

PROC = Path("/proc")
_LISTENS = "0A"


def descendants(pid: int) -> dict[int, str]:
    """The command lines of all processes that came from one, by their ids."""
    parents = {int(path.name): _parent(path) for path in PROC.iterdir() if path.name.isdigit()}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return {one: told for one in found[1:] if (told := command_line(one))}


def command_line(pid: int) -> str:
    """With blanks between the arguments; empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def listening(pids: Iterable[int]) -> set[IPv4Address | IPv6Address]:
    """The addresses on which any of them waits for connections."""
    inodes = {target for pid in pids for target in _open_files(pid)}
    found = set()
    for family in ("tcp", "tcp6"):
        for line in (PROC / "net" / family).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in inodes:
                found.add(_address(fields[1].split(":")[0]))
    return found


def wait_until(reached: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to that in time."""
    end = time.monotonic() + seconds
    while not (there := reached()) and time.monotonic() < end:
        time.sleep(0.01)
    return there


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _open_files(pid: int) -> list[str]:
    try:
        return [path.readlink().as_posix() for path in (PROC / str(pid) / "fd").iterdir()]
    except OSError:
        return []


def _address(hexadecimal: str) -> IPv4Address | IPv6Address:
    """From words of four bytes, each the other way round."""
    words = [bytes.fromhex(hexadecimal[place : place + 8])[::-1] for place in range(0, len(hexadecimal), 8)]
    address = ip_address(b"".join(words))
    return getattr(address, "ipv4_mapped", None) or address
