"""How many CPU threads are worth starting here: physical cores that this process may use, within its quota.

usable_cores()                 # 2 in a pod with 2 CPUs, on whatever machine
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Linux tells here which logical processors share a core.
_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
_MEMBERSHIP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Threads that compute at the same time: physical cores, or fewer where a quota says so (rounded up)."""
    quota = cpu_quota()
    return physical_cores() if quota is None else max(1, min(physical_cores(), math.ceil(quota)))


def physical_cores() -> int:
    """Physical cores that this process may use; hyper-threads share the units that matrix products need."""
    siblings = set()
    for cpu in _allowed_processors():
        topology = Path(_TOPOLOGY.format(cpu=cpu))
        siblings.add(topology.read_text(encoding="ascii").strip() if topology.is_file() else str(cpu))
    return max(1, len(siblings))


def cpu_quota() -> float | None:
    """CPUs' worth of time that the control groups of this process allow (both versions); None without a limit.

    See cpu.max in the kernel's admin-guide/cgroup-v2 and cpu.cfs_quota_us in scheduler/sched-bwc.
    """
    return min((quota for folder in _control_groups() if (quota := _quota_of(folder)) is not None), default=None)


def _control_groups() -> Iterator[Path]:
    """Folders of the groups that this process is in, and of those above; a container sees its own as the root."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mounts = (_CGROUPS, _CGROUPS / "unified")
        elif "cpu" in controllers.split(","):
            mounts = (_CGROUPS / controllers, _CGROUPS / "cpu")
        else:
            continue
        for mounted in mounts:
            group = mounted / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _allowed_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
