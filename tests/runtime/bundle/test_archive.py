"""A bundle as one file: written and opened, and what an archive from a stranger may not hold."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.bundle.archive import write_archive
from densepack_runtime.bundle.manifest import checksum
from densepack_runtime.errors import BundleError, InputError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from tests.command_line import CommandLine
from tests.conftest import REPOSITORY

BUNDLE = REPOSITORY / "tests" / "last_version" / "bundle"
MANIFEST = (BUNDLE / MANIFEST_NAME).read_bytes()
QUESTION, CONTEXT = "Who was Chopin?", "Frédéric Chopin was a Polish composer."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DENSEPACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    bundle = Bundle.open(BUNDLE)
    write_archive(bundle.folder, bundle.manifest, tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_answers_are_those_of_the_folder(densepack: CommandLine, tmp_path: Path, cache: Path) -> None:
    outcome = densepack("archive", BUNDLE, tmp_path / "b.tar", "--json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["sha256"] == hashlib.sha256((tmp_path / "b.tar").read_bytes()).hexdigest()
    assert outcome.next_step == f"densepack prove {tmp_path / 'b.tar'}"
    answers = []
    for place in (BUNDLE, tmp_path / "b.tar", str(tmp_path / "b.tar")):
        with QuestionAnswerer.open(place, backend="onnxruntime") as answerer:
            answers.append(answerer.answer(question=QUESTION, context=CONTEXT))
    assert answers[0] == answers[1] == answers[2]
    assert [path.name for path in (cache / "bundles").iterdir()] == [hashlib.sha256(MANIFEST).hexdigest()]
    refused = densepack("archive", BUNDLE, tmp_path / "b.tar")
    assert "exists already: choose another name, or pass --overwrite" in refused.error_lines[0]
    assert densepack("archive", BUNDLE, tmp_path / "b.tar", "--overwrite").code == 0


def test_the_same_bundle_makes_the_same_bytes_that_tar_reads(archive: Path, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(BUNDLE, tmp_path / "copy"))
    write_archive(copy.folder, copy.manifest, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "out"], check=True, timeout=60)
    assert Bundle.open(tmp_path / "out").manifest == copy.manifest


def test_an_archive_is_unpacked_once(archive: Path) -> None:
    first = Bundle.open(archive).path("model.onnx").stat()
    assert Bundle.open(archive).path("model.onnx").stat() == first


def test_a_host_that_cannot_keep_it(archive: Path, cache: Path, densepack: CommandLine) -> None:
    """As on a read-only file system; root may write anywhere else."""
    cache.write_text("in the way")
    outcome = densepack("eval", archive)
    assert outcome.code == 1
    [line] = outcome.error_lines
    assert "cannot be kept in" in line
    assert line.endswith("DENSEPACK_CACHE names another folder")


def test_a_user_without_a_home(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DENSEPACK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(InputError, match="no home folder for a cache: name one with DENSEPACK_CACHE"):
        Bundle.open(archive)


def test_a_bundle_of_another_manifest_at_that_place_is_not_taken(archive: Path, cache: Path) -> None:
    """Somebody who may write into the cache puts a bundle there that is whole, and not this one."""
    place = Bundle.open(archive).folder
    body = json.loads(MANIFEST)
    del body["checksum"]
    body["doc_stride"] += 1
    (place / MANIFEST_NAME).write_text(json.dumps({**body, "checksum": checksum(body)}))
    assert Bundle.open(archive).manifest == Bundle.open(BUNDLE).manifest


# --- from strangers --------------------------------------------------------------------------------------------------

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def good() -> list[Member]:
    names = sorted(path.relative_to(BUNDLE).as_posix() for path in BUNDLE.rglob("*") if path.is_file())
    names.sort(key=lambda name: name != MANIFEST_NAME)
    return [member(name, (BUNDLE / name).read_bytes()) for name in names]


def packed(members: list[Member], **how: Any) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **{"format": tarfile.USTAR_FORMAT, **how}) as archive:
        for info, content in members:
            archive.addfile(info, BytesIO(content))
    return buffer.getvalue()


def swapped(name: str, *by: Member) -> bytes:
    """The good archive with others in the place of one file."""
    return packed([one for info, content in good() for one in (by if info.name == name else [(info, content)])])


def listed(files: dict[str, Any], *more: Member) -> bytes:
    """An archive whose manifest, under a right checksum, lists other files beside its own."""
    body = json.loads(MANIFEST)
    del body["checksum"]
    body["files"] |= files
    text = json.dumps({**body, "checksum": checksum(body)}).encode()
    return packed([member(MANIFEST_NAME, text), *good()[1:], *more])


def changed(start: int, field: bytes) -> bytes:
    """The good archive with one field of the header of reference.npz as tarfile would not write it."""
    data = bytearray(packed(good()))
    header = data.index(b"reference.npz\0")
    data[header + start : header + start + len(field)] = field
    data[header + 148 : header + 156] = b" " * 8
    data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
    return bytes(data)


def named(name: bytes) -> bytes:
    return changed(0, name.ljust(100, b"\0"))


def typed(kind: bytes) -> bytes:
    return changed(156, kind + b"/etc/passwd\0")


def sized(size: int) -> bytes:
    """A size of any sign, in the spelling of GNU."""
    return changed(124, (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big"))


def huge() -> bytes:
    """A first header that promises a gigabyte."""
    info = tarfile.TarInfo(MANIFEST_NAME)
    info.size = 1 << 30
    return info.tobuf(tarfile.USTAR_FORMAT)


NPZ = (BUNDLE / "reference.npz").read_bytes()
ENTRY = json.loads(MANIFEST)["files"]["reference.npz"]
NOTHING = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
PAX = {"format": tarfile.PAX_FORMAT}
NO_HEADER, NO_FILE = "no header where one belongs", "is no plain file"
OTHER_SIZE, NOT_LISTED = "bytes, and its files make", "which its manifest does not list so"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a path upwards": (lambda: named(b"../reference.npz"), f"'../reference.npz' of .* {NOT_LISTED}"),
    "an absolute path": (lambda: named(b"/tmp/reference.npz"), f"'/tmp/reference.npz' of .* {NOT_LISTED}"),
    "another spelling of a path": (lambda: named(b"./reference.npz"), NOT_LISTED),
    "a name in Latin-1": (lambda: named(b"r\xe9f\xe9rence.npz"), f"{NO_HEADER} .*utf-8"),
    "a name with a surrogate": (lambda: named(b"\xed\xa0\x80"), f"{NO_HEADER} .*utf-8"),
    "a manifest that lists upwards": (lambda: listed({"../x": NOTHING}, member("../x")), "outside of itself"),
    "a manifest that lists what is absolute": (lambda: listed({"/x": NOTHING}, member("/x")), "outside of itself"),
    "a manifest that lists itself": (lambda: listed({MANIFEST_NAME: ENTRY}), f"{OTHER_SIZE}|{NOT_LISTED}"),
    "a file that is a folder as well": (
        lambda: listed({"engines": NOTHING, "engines/x": NOTHING}, member("engines"), member("engines/x")),
        "cannot be kept",
    ),
    "a symbolic link": (lambda: typed(tarfile.SYMTYPE), NO_FILE),
    "a hard link": (lambda: typed(tarfile.LNKTYPE), NO_FILE),
    "a device": (lambda: typed(tarfile.CHRTYPE), NO_FILE),
    "a disk": (lambda: typed(tarfile.BLKTYPE), NO_FILE),
    "a FIFO": (lambda: typed(tarfile.FIFOTYPE), NO_FILE),
    "a folder": (lambda: typed(tarfile.DIRTYPE), NO_FILE),
    "a sparse file": (lambda: typed(tarfile.GNUTYPE_SPARSE), NO_FILE),
    "a long name of GNU": (lambda: typed(tarfile.GNUTYPE_LONGNAME), NO_FILE),
    "a header of POSIX for all": (lambda: packed(good(), pax_headers={"path": "../x"}, **PAX), NO_FILE),
    "a file twice": (lambda: listed({"twin": ENTRY}, member("reference.npz", NPZ)), "a second time"),
    "the manifest twice": (lambda: packed([good()[0], *good()]), OTHER_SIZE),
    "a file more": (lambda: packed([*good(), member("stray", bytes(20_000))]), OTHER_SIZE),
    "a thousand files more": (lambda: packed([*good(), *[member(f"{i}") for i in range(1000)]]), OTHER_SIZE),
    "a file less": (lambda: swapped("reference.npz"), f"{OTHER_SIZE}|{NO_HEADER}"),
    "an absurd size": (lambda: sized(1 << 80), NOT_LISTED),
    "a negative size": (lambda: sized(-512), NOT_LISTED),
    "a wrong size": (lambda: sized(len(NPZ) - 1), NOT_LISTED),
    "a wrong hash": (lambda: swapped("reference.npz", member("reference.npz", bytes(len(NPZ)))), r"damaged \(sha256"),
    "cut off": (lambda: packed(good())[:200_000], f"it has 200,000 {OTHER_SIZE}"),
    "cut off in the manifest": (lambda: packed(good())[:4096], "it ends within bundle.json"),
    "cut off at once": (lambda: packed(good())[:100], NO_HEADER),
    "empty": (lambda: b"", NO_HEADER),
    "something behind it": (lambda: packed(good()) + b"#!/bin/sh", OTHER_SIZE),
    "something in its last record": (lambda: packed(good())[:-1] + b"!", "more follows after the last file"),
    "compressed": (lambda: gzip.compress(packed(good())), "it is compressed with gzip"),
    "something else": (lambda: b"%PDF-1.7" + bytes(2048), NO_HEADER),
    "a damaged header": (lambda: packed(good()).replace(b"reference.npz\0", b"reference.npy\0"), NO_HEADER),
    "another file first": (lambda: packed(good()[::-1]), "it begins with .* bytes of 'tokenizer.json'"),
    "a huge manifest": (huge, "it begins with 1,073,741,824 bytes of"),
    "a manifest of nobody": (lambda: packed([member(MANIFEST_NAME, b"{}")]), "was not written by densepack"),
}


@pytest.mark.parametrize(("make", "told"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_stranger_sends_is_refused_and_writes_nothing(
    make: Callable[[], bytes], told: str, tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "hostile.tar"
    path.write_bytes(make())
    before = set(tmp_path.iterdir())
    with pytest.raises(BundleError, match=told):
        Bundle.open(path)
    assert set(tmp_path.iterdir()) - before <= {cache}
    assert not (cache / "bundles").exists() or not any((cache / "bundles").iterdir())


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bundle.tar")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "bundle.tar")
