"""`densepack batch --workers`: what comes out is what one process gives, whatever becomes of the workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.serving.corpora.formats import Part
from densepack_runtime.serving.corpora.plan import Task
from densepack_runtime.serving.corpora.workers import _answer_all
from tests.command_line import CommandLine
from tests.conftest import TINY_BUNDLE
from tests.processes import command_line, descendants, listening, wait_until
from tests.runtime.commands.test_batch import contents, lines_in, write_lines

SECONDS = 120.0
# Ray's agents look after the processes above them only so often.
AGENTS_S = 180.0
PARTS, ROWS = 60, 20
WORKERS = ("--workers", "2", "--threads", "2")


def command(given: Path, out: Path, *options: str) -> list[str]:
    start = [sys.executable, "-c", "from densepack_export.cli import main; main()", "batch", str(TINY_BUNDLE)]
    return [*start, str(given), str(out), "--backend", "onnxruntime", "--rows", str(ROWS), "--json", *options]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which the last is none."""
    path = write_lines(tmp_path_factory.mktemp("given") / "in.jsonl", PARTS * ROWS)
    with path.open("a", encoding="utf-8") as file:
        file.write("{\n")
    return path


@pytest.fixture(scope="module")
def alone(given: Path) -> dict[str, bytes]:
    """What one process with one thread makes of them."""
    out = given.parent / "alone"
    done = subprocess.run(command(given, out, "--threads", "1"), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # the last row
    return contents(out)


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For sockets, whose paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@contextmanager
def begun(given: Path, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A run of its own process group that has finished a few parts."""
    asked = command(given, out, *options)
    with subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        try:
            assert wait_until(lambda: len(list(out.glob("*.jsonl"))) > 2 or run.poll() is not None, SECONDS)
            assert run.poll() is None, run.communicate()
            yield run
        finally:
            run.kill()


def test_a_worker_that_is_killed_changes_nothing(given: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    with begun(given, tmp_path / "out", *WORKERS) as run:
        theirs = descendants(run.pid)
        workers = [pid for pid, told in theirs.items() if told.startswith("ray::_Worker")]
        os.kill(workers[0], signal.SIGKILL)
        heard = listening([run.pid, *theirs])
        out, err = run.communicate(timeout=SECONDS)
    assert len(workers) == 2
    assert run.returncode == 1, err
    done = json.loads(out)
    assert (done["rows"], done["bad_rows"], done["rows_done_now"]) == (PARTS * ROWS + 1, 1, PARTS * ROWS + 1)
    assert "2 workers with 1 threads each" in err
    assert contents(tmp_path / "out") == alone
    assert [line["id"] for line in lines_in(tmp_path / "out")] == list(range(PARTS * ROWS))
    assert heard
    assert all(address.is_loopback for address in heard)
    assert not any(command_line(pid) == told for pid, told in theirs.items())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_processes_and_goes_on(
    given: Path, alone: dict[str, bytes], tmp_path: Path, number: signal.Signals
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background hands down that it ignores it
    with begun(given, tmp_path / "out", *WORKERS) as run:
        theirs = descendants(run.pid)
        os.killpg(run.pid, number)  # as a terminal does
        out, err = run.communicate(timeout=SECONDS)
    assert (run.returncode, out) == (128 + number, ""), err
    assert "Traceback" not in err
    assert wait_until(lambda: not any(command_line(pid) == told for pid, told in theirs.items()), 10)
    kept = len(list((tmp_path / "out").glob("*.jsonl")))
    assert 2 < kept < PARTS
    again = subprocess.run(
        command(given, tmp_path / "out", "--workers", "1", "--threads", "1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert json.loads(again.stdout)["parts_done_before"] == kept, again.stderr
    assert contents(tmp_path / "out") == alone


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_processes(
    given: Path, alone: dict[str, bytes], tmp_path: Path, short_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", short_folder)  # what Ray leaves there
    with begun(given, tmp_path / "out", *WORKERS) as run:
        theirs = descendants(run.pid)
        run.kill()
    workers = [pid for pid, told in theirs.items() if told.startswith("ray::_Worker")]
    assert wait_until(lambda: not any(map(command_line, workers)), 10)
    assert wait_until(lambda: not any(command_line(pid) == told for pid, told in theirs.items()), AGENTS_S)
    done = subprocess.run(command(given, tmp_path / "out", "--threads", "1"), check=False, capture_output=True)
    assert done.returncode == 1
    assert contents(tmp_path / "out") == alone


@pytest.mark.slow
def test_workers_join_a_cluster(
    given: Path, alone: dict[str, bytes], tmp_path: Path, short_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on loopback, that only those with its token may use."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 64)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    asked = command(given, tmp_path / "out", "--workers", "1", "--threads", "1", "--address", address)
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = [*ray, "start", "--head", "--block", "--include-dashboard=false", "--disable-usage-stats", "--num-cpus=1"]
    with subprocess.Popen(
        [*head, f"--port={address.split(':')[1]}", f"--temp-dir={short_folder}"], stdout=subprocess.DEVNULL
    ) as cluster:
        try:
            assert wait_until(lambda: any("raylet" in told for told in descendants(cluster.pid).values()), SECONDS)
            done = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=SECONDS)
            assert contents(tmp_path / "out") == alone, done.stderr
            assert cluster.poll() is None
        finally:
            cluster.terminate()


def test_without_ray_it_says_how_to_get_it_and_one_process_answers(
    densepack: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("batch", TINY_BUNDLE, write_lines(tmp_path / "in.jsonl", 3), tmp_path / "out", "--backend", "onnxruntime")
    assert densepack(*asked, "--workers", 1).error_lines == [
        "error: the package 'ray' is needed for this and is not installed: pip install 'densepack[ray]'"
    ]
    assert densepack(*asked).code == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "127.0.0.1:six"])
def test_a_cluster_that_is_not_there_is_one_line(
    densepack: CommandLine, given: Path, tmp_path: Path, address: str
) -> None:
    asked = ("--backend", "onnxruntime", "--workers", 1, "--address", address)
    [line] = densepack("batch", TINY_BUNDLE, given, tmp_path / "out", *asked).error_lines
    assert line.startswith(f"error: there is no Ray cluster at {address}, which must be HOST:PORT: ")


def test_a_cluster_is_for_workers(densepack: CommandLine, given: Path, tmp_path: Path) -> None:
    done = densepack("batch", TINY_BUNDLE, given, tmp_path / "out", "--address", "10.0.0.1:6379")
    assert done.error_lines == [
        "error: the cluster at 10.0.0.1:6379 is for workers, and none are asked for: say how many with --workers"
    ]
    assert not (tmp_path / "out").exists()


class PlannedRay:
    """Ray, of which `get` gives what was planned for a call, or raises it."""

    def __init__(self, **outcomes: Any) -> None:
        import ray

        self.exceptions, self._outcomes = ray.exceptions, outcomes
        self.worker = SimpleNamespace(
            open=SimpleNamespace(remote=lambda: "open"), answer=SimpleNamespace(remote=lambda task: task.name)
        )

    def wait(self, calls: list[str]) -> tuple[list[str], list[str]]:
        return calls[:1], calls[1:]

    def get(self, call: str) -> Any:
        outcome = self._outcomes.get(call)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def answer_one(ray: PlannedRay) -> list[int]:
    advanced: list[int] = []
    _answer_all(ray, [ray.worker], [Task(Path("in.csv"), Part(0, 3), "one", "in.csv")], advanced.append)
    return advanced


def test_what_a_worker_raises_is_raised_as_it_was() -> None:
    assert answer_one(PlannedRay(one=3)) == [3]
    import ray

    for fault in (InputError("in.csv has changed"), OSError(28, "No space left on device")):
        task_error: Any = ray.exceptions.RayTaskError
        raised = task_error("answer", "a traceback", fault).as_instanceof_cause()
        with pytest.raises(type(fault)) as caught:
            answer_one(PlannedRay(one=raised))
        assert caught.value is fault


def test_a_part_that_no_worker_survives_is_named() -> None:
    import ray

    died = ray.exceptions.ActorDiedError()
    with pytest.raises(BackendError, match=r"a worker ended 3 times while it answered one of in\.csv: fewer --workers"):
        answer_one(PlannedRay(one=died))
    with pytest.raises(BackendError, match="while it opened the bundle"):
        answer_one(PlannedRay(open=died))
