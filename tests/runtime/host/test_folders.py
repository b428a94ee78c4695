"""Folders are there whole or not at all; what is not to be replaced stays, and nothing is lost between two renames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.host import folders
from densepack_runtime.host.files import refuse_new_file
from densepack_runtime.host.folders import left_aside, link_or_copy, new_folder, refuse_new_folder
from tests.runtime.host.test_files import Interrupted


def anything(_: Path) -> Sequence[str]:
    """All of it may be replaced."""
    return []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


@pytest.fixture(params=["exchanged at once", "two renames"])
def old_either_way(old: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As on a kernel and a file system that exchange folders, and as on others."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "_renameat2", lambda *_: False)
    return old


def test_folder_has_ordinary_permissions(tmp_path: Path) -> None:
    """mkdtemp makes folders that only their owner can read; a bundle is meant to be shipped."""
    (tmp_path / "ordinary").write_text("")
    (tmp_path / "ordinary folder").mkdir()
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "engines").mkdir(mode=0o700)
        (temporary / "engines" / "private").touch(mode=0o600)
    assert (tmp_path / "folder/engines/private").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    for folder in ("folder", "folder/engines"):
        assert (tmp_path / folder).stat().st_mode == (tmp_path / "ordinary folder").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_failed_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "bundle") as temporary:
        (temporary / "model.onnx").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_folder_is_not_replaced_unless_asked(old: Path) -> None:
    with pytest.raises(InputError, match="exists already.*--overwrite"), new_folder(old):
        pytest.fail("the block must not run")


def test_what_would_fail_at_the_end_fails_before_the_work(old: Path, tmp_path: Path) -> None:
    refuse_new_folder(tmp_path / "deep" / "new")
    refuse_new_folder(old, anything)
    assert names(tmp_path) == ["bundle", "deep"]
    assert names(tmp_path / "deep") == []
    with pytest.raises(InputError, match="exists already"):
        refuse_new_folder(old)
    with pytest.raises((FileExistsError, NotADirectoryError)):
        refuse_new_folder(old / "old" / "new")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        refuse_new_file(old / "old" / "new.json")
    with pytest.raises(InputError, match="is a folder"):
        refuse_new_file(old)
    refuse_new_file(tmp_path / "deep" / "new.json")
    assert names(tmp_path / "deep") == []


def test_file_in_its_place_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(InputError, match="is no folder"), new_folder(tmp_path / "bundle", replaces=anything):
        pytest.fail("the block must not run")


def test_folder_with_strangers_is_not_replaced(old: Path) -> None:
    strangers = ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]
    with (
        pytest.raises(InputError, match=r"a.txt, b.txt, c.txt and 2 more"),
        new_folder(old, replaces=lambda _: strangers),
    ):
        pytest.fail("the block must not run")
    assert names(old) == ["old"]


def test_failed_overwrite_keeps_the_old_folder(old: Path) -> None:
    with pytest.raises(Interrupted), new_folder(old, replaces=anything) as temporary:
        (temporary / "new").write_text("new")
        raise Interrupted
    assert names(old) == ["old"]
    assert names(old.parent) == ["bundle"]


def test_overwrite_replaces_the_folder_whole(old_either_way: Path) -> None:
    with new_folder(old_either_way, replaces=anything) as temporary:
        (temporary / "new").write_text("new")
    assert names(old_either_way) == ["new"]
    assert names(old_either_way.parent) == ["bundle"]


def test_of_a_link_the_target_is_replaced(old_either_way: Path) -> None:
    current = old_either_way.with_name("current")
    current.symlink_to("bundle")
    with new_folder(current, replaces=anything) as temporary:
        (temporary / "new").write_text("new")
    assert os.readlink(current) == "bundle"  # noqa: PTH115 - as it is stored
    assert names(old_either_way) == ["new"]


@pytest.mark.parametrize("full", [True, False])
def test_folder_that_appears_meanwhile_stays_and_the_result_is_kept(
    tmp_path: Path, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(InputError, match="the result is") as caught, new_folder(target) as temporary:
        (temporary / "new").write_text("new")
        target.mkdir()
        if full:
            (target / "theirs").write_text("theirs")
    assert names(target) == (["theirs"] if full else [])
    kept = next(path for path in tmp_path.iterdir() if path != target)
    assert str(kept) in str(caught.value)
    assert names(kept) == ["new"]


def test_strangers_that_appear_meanwhile_stay_and_the_result_is_kept(old: Path) -> None:
    def strangers(folder: Path) -> list[str]:
        return [name for name in names(folder) if name != "old"]

    with pytest.raises(InputError, match="holds theirs.*") as caught, new_folder(old, replaces=strangers) as temporary:
        (temporary / "new").write_text("new")
        (old / "theirs").write_text("theirs")
    assert "the result is" in str(caught.value)
    assert names(old) == ["old", "theirs"]


def test_failed_rename_puts_the_old_folder_back_and_keeps_the_result(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_renameat2", lambda *_: False)
    rename = Path.rename

    def failing(path: Path, other: Path) -> Path:
        if path.name.endswith(".tmp") and other == old:
            raise OSError("device or resource busy")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="busy"), new_folder(old, replaces=anything) as temporary:
        (temporary / "new").write_text("new")
    assert names(old) == ["old"]
    kept = next(path for path in old.parent.iterdir() if path != old)
    assert names(kept) == ["new"]


def test_end_between_two_renames_is_told_by_the_next_run(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_renameat2", lambda *_: False)
    pid = os.fork()
    if pid == 0:  # a process that ends where the old folder is aside and the new one is not there yet
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, other: os._exit(9) if other == old else rename(path, other))
        with new_folder(old, replaces=anything):
            pass
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    aside = left_aside(old)
    assert not old.exists()
    assert aside is not None
    assert names(aside) == ["old"]
    with pytest.warns(UserWarning, match=f"stopped while it replaced.*{aside.name}"), new_folder(old) as temporary:
        (temporary / "new").write_text("new")
    assert names(old) == ["new"]
    assert names(aside) == ["old"]


def test_mount_point_is_refused_before_the_work(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == old)
    with pytest.raises(InputError, match="mount point"), new_folder(old, replaces=anything):
        pytest.fail("the block must not run")


def test_linked_file_keeps_its_rights(old: Path) -> None:
    """They belong to the old folder, too, and may be somebody else's."""
    (old / "old").chmod(0o640)
    with new_folder(old.with_name("new")) as temporary:
        link_or_copy(old / "old", temporary / "old")
    assert (old / "old").stat().st_mode & 0o777 == 0o640


def test_copy_where_there_can_be_no_hard_link(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def protected(*_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", protected)
    link_or_copy(old / "old", old / "copy")
    assert (old / "copy").read_text() == "old"
    assert (old / "copy").stat().st_nlink == 1
