"""A real corpus through `densepack batch`: left alone, with a worker killed, interrupted and resumed; and how fast.

    python -m tests.runtime.serving.corpora.trial BUNDLE --squad dev-v1.1.json train-v1.1.json.gz [--rows 20000]

Every run has to give the files of one process with one thread, byte for byte: exit 1 where one does not. The workers
have a thread each, since other numbers of them add in another order.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from densepack_runtime.question_answering.json_lines import strict_json
from densepack_runtime.question_answering.squad import read_squad
from tests.processes import descendants

MOST_PARTS = 40
_MAIN = "from densepack_export.cli import main; main()"
Disturb = Callable[[subprocess.Popen[str]], None]


def write_rows(path: Path, files: list[Path], count: int) -> int:
    """The questions of SQuAD files as JSON lines, and how many there are."""

    def lines() -> Iterator[str]:
        for file in files:
            for one in read_squad(file).questions:
                yield strict_json({"id": one.id, "question": one.question, "context": one.context}) + "\n"

    with path.open("w", encoding="utf-8") as out:
        written = [out.write(line) for line in islice(lines(), count)]
    return len(written)


class Trial:
    """Runs of one job, each into a folder of its own."""

    def __init__(self, bundle: Path, given: Path, folder: Path, options: list[str]) -> None:
        self._start = [sys.executable, "-c", _MAIN, "batch", str(bundle), str(given)]
        self._folder, self._options = folder, ["--json", *options]

    def run(self, name: str, workers: int, threads: int, disturb: Disturb | None = None) -> tuple[int, float]:
        """Exit code and rows a second; `disturb` is called when a third of the parts are there."""
        out = self._folder / name
        options = [*self._options, "--workers", str(workers), "--threads", str(threads)]
        with subprocess.Popen([*self._start, str(out), *options], stdout=subprocess.PIPE, text=True) as process:
            if disturb is not None:
                while process.poll() is None and len(list(out.glob("*.jsonl"))) < MOST_PARTS // 3:
                    time.sleep(0.01)
                disturb(process)
            told = process.communicate()[0]
        return process.returncode, json.loads(told)["rows_per_s"] if told else 0.0

    def contents(self, name: str) -> dict[str, bytes]:
        out = self._folder / name
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    workers = [pid for pid, told in descendants(process.pid).items() if told.startswith("ray::_Worker")]
    os.kill(workers[0], signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--squad", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        given = Path(name) / "rows.jsonl"
        rows = write_rows(given, asked.squad, asked.rows)
        part = -(-rows // MOST_PARTS)
        options = ["--backend", asked.backend, "--precision", asked.precision, "--rows", str(part)]
        return try_all(Trial(asked.bundle, given, Path(name), options), rows)


def try_all(trial: Trial, rows: int) -> int:
    threads = os.cpu_count() or 1
    rates = {"0 workers, all threads": trial.run("fast", 0, threads), "0 workers, 1 thread": trial.run("alone", 0, 1)}
    rates["1 worker, 1 thread"] = trial.run("one", 1, 1)
    rates["2 workers, 1 thread each"] = trial.run("two", 2, 2)
    rates["2 workers, one of them killed"] = trial.run("killed", 2, 2, kill_a_worker)
    interrupted = trial.run("resumed", 2, 2, lambda process: process.send_signal(signal.SIGTERM))
    kept = len(trial.contents("resumed"))
    rates["interrupted, resumed with 1 worker"] = trial.run("resumed", 1, 1)
    for told, (code, rate) in rates.items():
        print(f"{told}: {rate:.1f} rows/s, exit {code}")
    print(f"interrupted: exit {interrupted[0]} with {kept - 1} of {len(trial.contents('alone')) - 1} parts")
    alone = trial.contents("alone")
    differ = [name for name in ("one", "two", "killed", "resumed") if trial.contents(name) != alone]
    answered = sum(content.count(b"\n") for name, content in alone.items() if not name.startswith("_"))
    print(
        f"{answered} of {rows} rows answered; runs that differ from the one left alone: {', '.join(differ) or 'none'}"
    )
    return int(bool(differ) or any(code for code, _ in rates.values()) or answered != rows)


if __name__ == "__main__":
    sys.exit(main())
