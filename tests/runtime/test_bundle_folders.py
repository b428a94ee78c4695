"""What happens to the folder of a bundle when it is written again: by another user, through a link, by two at once."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from densepack_runtime.bundle import Bundle, edit_bundle, strangers_in, write_bundle
from densepack_runtime.errors import BundleError, InputError
from tests.runtime.test_bundle import folder, make_manifest

__all__ = ["folder"]  # a fixture

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def overwrite(folder: Path) -> None:
    with write_bundle(folder, make_manifest(), overwrite=True) as draft:
        draft.path("tokenizer.json").write_text('{"new": true}')


def add_report(bundle: Bundle) -> None:
    with edit_bundle(bundle) as draft:
        draft.path("report.html").write_text("<p>")


def as_nobody(action: Callable[[], object]) -> None:
    """Run in a child process that is another user; its traceback fails the test."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            action()
        except BaseException:  # noqa: BLE001 - all of it belongs into the test's output
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def make_passable(folder: Path) -> None:
    """The folders above that are for their owner only, as pytest makes them, may be passed by anybody."""
    for above in folder.parents:
        if above.stat().st_mode & 0o777 == 0o700:
            above.chmod(0o711)


def test_bundle_with_a_file_of_somebody_is_not_replaced(folder: Path) -> None:
    overwrite(folder)
    assert strangers_in(folder) == []
    (folder / "engines").mkdir()
    (folder / "engines" / "notes.txt").write_text("mine")
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"holds engines/notes\.txt, gone, which densepack does not write"):
        overwrite(folder)
    assert (folder / "engines" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("manifest", [None, "{}", "[1]", '{"kind": "densepack bundle", "files": 3}'])
def test_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path, manifest: str | None) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    if manifest is not None:
        (target / "bundle.json").write_text(manifest)
    with pytest.raises(InputError, match="holds thesis.txt" if manifest is None else "holds bundle.json, thesis.txt"):
        overwrite(target)
    assert (target / "thesis.txt").read_text() == "mine"


def test_file_of_another_program_that_is_called_like_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "bundle.json").write_text('{"scripts": {}}')
    with pytest.raises(InputError, match=r"holds bundle\.json, which"):
        overwrite(tmp_path / "home")
    assert (tmp_path / "home" / "bundle.json").read_text() == '{"scripts": {}}'


def test_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    overwrite(tmp_path / "bundle")
    assert Bundle.open(tmp_path / "bundle")


def test_link_to_the_current_version_stays_a_link(folder: Path) -> None:
    current = folder.with_name("current")
    current.symlink_to(folder.name)
    add_report(Bundle.open(current))
    assert current.is_symlink()
    assert "report.html" in Bundle.open(folder).manifest.files


def test_change_of_another_process_is_not_lost(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="changed by another process"), edit_bundle(bundle) as draft:
        draft.path("other.html").write_text("<p>")
        add_report(Bundle.open(folder))
    assert "report.html" in Bundle.open(folder).manifest.files
    assert "other.html" not in Bundle.open(folder).manifest.files


def test_bundle_is_where_a_stopped_run_left_it(folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.abc.old")
    folder.rename(aside)
    with pytest.raises(BundleError, match=f"a run was stopped while it replaced it. Rename {aside}"):
        Bundle.open(folder)


@as_root
def test_bundle_of_another_user_can_be_changed_where_the_folder_above_may(folder: Path) -> None:
    """Its files may be neither linked (the kernel protects them) nor given other rights, and it cannot be removed."""

    def change() -> None:
        with pytest.warns(UserWarning, match="could not be removed"):
            add_report(Bundle.open(folder))

    make_passable(folder)
    folder.parent.chmod(0o777)
    before = {name: (folder / name).read_bytes() for name in Bundle.open(folder).manifest.files}

    as_nobody(change)

    assert "report.html" in Bundle.open(folder).manifest.files
    assert {name: (folder / name).read_bytes() for name in before} == before


@as_root
def test_place_that_may_not_be_written_keeps_the_old_bundle(folder: Path) -> None:
    def fails() -> None:
        with pytest.raises(PermissionError):
            overwrite(folder)

    make_passable(folder)
    as_nobody(fails)
    assert Bundle.open(folder)
