"""Files that are written are there whole or not at all, and nothing that is no file is replaced by one."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import new_file, sha256_of, write_text_atomic


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


def test_written_file_has_ordinary_permissions_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    """mkstemp makes files that only their owner can read."""
    ordinary, private = tmp_path / "ordinary", tmp_path / "private"
    ordinary.write_text("")
    private.touch(mode=0o600)
    write_text_atomic(tmp_path / "written", "")
    write_text_atomic(private, "new")
    assert (tmp_path / "written").stat().st_mode == ordinary.stat().st_mode
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127 + "x")
    write_text_atomic(target, "text")
    assert target.read_text() == "text"


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"), new_file(tmp_path):
        pytest.fail("the block must not run")


def test_of_a_link_the_target_changes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("real/target.json")  # dangling at first
    for text in ("first", "second"):
        write_text_atomic(link, text)
        assert link.is_symlink()
        assert (tmp_path / "real" / "target.json").read_text() == text


def test_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="levels of symbolic links"):
        write_text_atomic(tmp_path / "a", "text")


# --- what is no file --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are made by root")
def test_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_text("")
    except OSError:
        pytest.skip("no device node can be made here")
    write_text_atomic(device, "text")
    assert device.is_char_device()
    assert list(tmp_path.iterdir()) == [device]


def test_full_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_text_atomic(Path("/dev/full"), "text")


def test_pipe_gets_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text_atomic(pipe, "text")
    reader.join(timeout=10)
    assert got == ["text"]
    assert pipe.is_fifo()


def test_socket_gets_the_text(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        write_text_atomic(tmp_path / "socket", "text")
        connection, _ = server.accept()
        with connection:
            assert connection.makefile().read() == "text"


def test_descriptor_of_a_pipe_gets_the_text() -> None:
    """What the shell's >(…) is."""
    reading, writing = os.pipe()
    write_text_atomic(Path(f"/dev/fd/{writing}"), "text")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "text"


def test_standard_output_keeps_what_is_written_before_and_after(tmp_path: Path) -> None:
    """It is a file here, which must not be replaced under those who write on."""
    code = (
        "import sys; from pathlib import Path; from densepack_runtime.host.files import write_text_atomic\n"
        "print('before', flush=True); write_text_atomic(Path('/dev/stdout'), 'text\\n'); print('after')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ntext\nafter\n"


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
