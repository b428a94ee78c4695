"""What is written is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import new_file, new_folder, sha256_of, write_text_atomic


class Interrupted(BaseException):
    """Stands for Ctrl-C, which is no Exception."""


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    with new_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.json"
    write_text_atomic(target, "old")
    with pytest.raises(error), new_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    """mkstemp makes files that only their owner can read; a bundle is meant to be shipped."""
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_text_atomic(tmp_path / "written", "")
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "engines").mkdir(mode=0o700)
        (temporary / "engines" / "private").touch(mode=0o600)
    (tmp_path / "ordinary folder").mkdir()
    assert (tmp_path / "folder" / "engines" / "private").stat().st_mode == ordinary.stat().st_mode
    assert (tmp_path / "written").stat().st_mode == ordinary.stat().st_mode
    for folder in ("folder", "folder/engines"):
        assert (tmp_path / folder).stat().st_mode == (tmp_path / "ordinary folder").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_failed_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "bundle") as temporary:
        (temporary / "model.onnx").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_folder_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="exists already.*--overwrite"), new_folder(tmp_path / "bundle"):
        pytest.fail("the block must not run")


def test_failed_overwrite_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(Interrupted), new_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
        raise Interrupted
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def failing(path: Path, other: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError("no space left on device")
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space"), new_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_overwrite_replaces_the_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    with new_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
