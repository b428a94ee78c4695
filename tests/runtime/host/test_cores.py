"""Threads by default: physical cores, within what the control groups of either version allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.host import cores
from densepack_runtime.host.cores import cpu_quota, physical_cores, usable_cores
from densepack_runtime.sessions.options import SessionOptions


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty tree of control groups, and no membership in any."""
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "cgroup"


def member(groups: Path, text: str) -> None:
    (groups.parent / "membership").write_text(text, encoding="ascii")


def version_1(folder: Path, quota: int, period: int = 100_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def version_2(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def test_physical_cores_counts_cores_and_not_their_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight processors are allowed; 0 and 1, 2 and 3 share a core, and of the others nothing is known."""
    for cpu, siblings in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        (tmp_path / f"{cpu}").write_text(siblings + "\n", encoding="ascii")
    monkeypatch.setattr(cores, "_TOPOLOGY", str(tmp_path / "{cpu}"))
    monkeypatch.setattr(cores, "_allowed_processors", lambda: set(range(8)))
    assert physical_cores() == 2 + 4


def test_no_control_groups_no_quota(groups: Path) -> None:
    assert cpu_quota() is None
    assert usable_cores() == physical_cores()


@pytest.mark.parametrize(
    ("told", "quota"), [("200000 100000\n", 2.0), ("150000 100000\n", 1.5), ("max 100000\n", None), ("odd", None)]
)
def test_quota_of_version_2(groups: Path, told: str, quota: float | None) -> None:
    member(groups, "0::/pod/container\n")
    version_2(groups / "pod" / "container", told)
    assert cpu_quota() == quota


def test_smallest_quota_of_a_group_and_those_above_counts(groups: Path) -> None:
    member(groups, "0::/pod/container\n")
    version_2(groups / "pod" / "container", "800000 100000")
    version_2(groups / "pod", "300000 100000")
    version_2(groups, "max 100000")
    assert cpu_quota() == 3


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("visible", [True, False])
def test_quota_of_version_1(groups: Path, mounted: str, visible: bool) -> None:
    """A container may be told the path on its host, which it does not see: its own group is the root there."""
    member(groups, f"12:memory:/pod\n3:{mounted}:/pod\n0::/\n")
    version_1(groups / mounted / "pod" if visible else groups / mounted, 250_000)
    assert cpu_quota() == 2.5
    version_1(groups / mounted / "pod" if visible else groups / mounted, -1)
    assert cpu_quota() is None


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.5, 2), (2.0, 2), (99.0, 8)])
def test_quota_bounds_the_threads(monkeypatch: pytest.MonkeyPatch, quota: float, threads: int) -> None:
    monkeypatch.setattr(cores, "physical_cores", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == threads


def test_absurd_numbers_of_threads_are_refused() -> None:
    processors = os.cpu_count() or 1
    assert SessionOptions(threads=8 * processors).cpu_threads == 8 * processors
    with pytest.raises(InputError, match=f"are too many for {processors} processors: at most {8 * processors}"):
        SessionOptions(threads=8 * processors + 1)
    with pytest.raises(InputError, match="at least 1"):
        SessionOptions(threads=0)
