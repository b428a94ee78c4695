"""A cache is shared without waiting, costs time where it cannot be used, and never an answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densepack_runtime.sessions.compile_cache import KeptFile, KeptFolder
from tests.command_line import CommandLine
from tests.conftest import TINY_BUNDLE

QUESTION = {"question": "who saw the dog ?", "context": "the old man saw the dog ."}
WORKERS = 8
SECONDS = 120
OPEN_AT_ONCE = """
import sys, time
from pathlib import Path
from densepack_runtime import QuestionAnswerer
from densepack_runtime.sessions.openvino_session import openvino_precisions

bundle, ready, go, question, context = sys.argv[1:]
openvino_precisions()
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.001)
with QuestionAnswerer.open(bundle, backend="openvino", threads=1) as answerer:
    print(answerer.answer(question=question, context=context))
"""


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    return shutil.copytree(TINY_BUNDLE, tmp_path / "bundle")


def test_what_was_kept_is_read_by_the_next(tmp_path: Path) -> None:
    kept = KeptFile(tmp_path / "new" / "folder" / "a.blob")
    assert kept.read() is None
    for content in (b"once", b"", b"again"):
        kept.write(content)
        found = KeptFile(kept.path).read()
        assert found is not None
        assert found.tobytes() == content
    assert [path.name for path in kept.path.parent.iterdir()] == ["a.blob"]


@pytest.mark.parametrize("damage", [b"", b"abc", b"conten1234", b"cOntent", b"contentxyz"])
def test_what_is_damaged_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    kept = KeptFile(tmp_path / "a.blob")
    kept.write(b"content")
    checksum = kept.path.read_bytes()[-4:]
    kept.path.write_bytes(damage + checksum if damage.startswith(b"c") else damage)
    assert kept.read() is None
    assert caplog.messages == [f"{kept.path} is damaged: compiling anew"]


def test_a_folder_is_shared_once_it_is_filled_and_the_first_wins(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "engines"
    first, second, empty = KeptFolder(place), KeptFolder(place), KeptFolder(place)
    for number, folder in enumerate((first, second)):
        own = folder.open()
        assert own is not None
        assert own != place
        (own / "engine").write_text(f"of {number}", encoding="ascii")
    assert empty.open() != place
    empty.close(keep=True)
    assert not place.exists()
    first.close(keep=True)
    second.close(keep=True)
    assert KeptFolder(place).open() == place
    assert (place / "engine").read_text(encoding="ascii") == "of 0"
    assert list(place.parent.iterdir()) == [place]


def test_a_folder_that_failed_is_not_kept(tmp_path: Path) -> None:
    folder = KeptFolder(tmp_path / "cache" / "engines")
    own = folder.open()
    assert own is not None
    (own / "half").touch()
    folder.close(keep=False)
    assert not any((tmp_path / "cache").iterdir())


# --- bundles ---------------------------------------------------------------------------------------------------------


def asked(bundle: Path) -> tuple[str, ...]:
    return ("answer", str(bundle), "-q", QUESTION["question"], "-c", QUESTION["context"], "--backend", "openvino")


@pytest.mark.parametrize("taken", ["by a file", "by a link to itself"])
def test_a_place_that_is_taken_is_told_once_and_costs_no_answer(
    densepack: CommandLine, tiny_bundle: Path, taken: str
) -> None:
    pytest.importorskip("openvino")
    place = tiny_bundle.with_name("bundle.cache")
    if taken == "by a file":
        place.write_text("mine", encoding="ascii")
    else:
        place.symlink_to(place)
    wanted = densepack(*asked(tiny_bundle), "--cache", tiny_bundle.with_name("other"))
    outcome = densepack(*asked(tiny_bundle))
    assert (outcome.code, outcome.out) == (0, wanted.out)
    [told] = [line for line in outcome.err.splitlines() if "nothing compiled is kept" in line]
    assert f"nothing compiled is kept in {place}/openvino (" in told
    assert "--cache FOLDER or DENSEPACK_CACHE names another place" in told
    assert place.is_symlink() or place.read_text(encoding="ascii") == "mine"


def test_a_link_is_followed_even_where_nothing_is_yet(densepack: CommandLine, tiny_bundle: Path) -> None:
    pytest.importorskip("openvino")
    place = tiny_bundle.with_name("bundle.cache")
    place.symlink_to("elsewhere")
    assert densepack(*asked(tiny_bundle)).code == 0
    assert place.is_symlink()
    assert list(tiny_bundle.with_name("elsewhere").rglob("*.blob"))


def test_another_place_can_be_named(
    densepack: CommandLine, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("DENSEPACK_CACHE", str(tmp_path / "variable"))
    assert densepack(*asked(tiny_bundle)).code == 0
    assert densepack(*asked(tiny_bundle), "--cache", tmp_path / "option").code == 0
    assert [len(list((tmp_path / name / "openvino").iterdir())) for name in ("variable", "option")] == [1, 1]
    assert not tiny_bundle.with_name("bundle.cache").exists()


@pytest.mark.parametrize(
    "cache", ["cold", *(pytest.param(cache, marks=pytest.mark.slow) for cache in ("warm", "of another version"))]
)
def test_eight_workers_open_a_bundle_at_once(tiny_bundle: Path, tmp_path: Path, cache: str) -> None:
    pytest.importorskip("openvino")
    kept = tiny_bundle.with_name("bundle.cache") / "openvino"
    if cache != "cold":
        workers_answers(tiny_bundle, tmp_path / "first", 1)
        if cache == "of another version":
            [blob] = kept.iterdir()
            KeptFile(blob).write(b"of another version")
    answers = workers_answers(tiny_bundle, tmp_path / "all", WORKERS)
    assert len(set(answers)) == 1
    assert answers[0].startswith("Answer(")
    assert len(list(kept.iterdir())) == 1


def workers_answers(bundle: Path, folder: Path, count: int) -> list[str]:
    """What so many processes answer that open the bundle at the same moment; every one of them has to."""
    folder.mkdir()
    go, ready = folder / "go", [folder / f"ready{number}" for number in range(count)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, bundle, own, go, *QUESTION.values()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in ready
    ]
    deadline = time.monotonic() + SECONDS
    while not all(own.exists() for own in ready) and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    told = [worker.communicate(timeout=SECONDS) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, told
    return [out for out, _ in told]


def test_the_cache_is_not_part_of_the_answer(densepack: CommandLine, tiny_bundle: Path) -> None:
    pytest.importorskip("openvino")
    cold, warm = (json.loads(densepack(*asked(tiny_bundle), "--json").out) for _ in range(2))
    assert cold == warm
