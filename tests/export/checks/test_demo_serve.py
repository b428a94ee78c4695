"""The demonstration of the server, as `make demo-serve` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LAST = Path(__file__).parents[2] / "last_version" / "bundle"


def demonstrated(bundle: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "densepack_export.checks.demo_serve", str(bundle)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)


def test_it_asks_and_ends() -> None:
    done = demonstrated(LAST)
    assert done.returncode == 0
    assert done.stdout.split()[:4] == ["Who", "built", "the", "lighthouse?"]
    assert len(done.stdout.splitlines()) == 5  # the question, a heading, three answers
    told = done.stderr.splitlines()
    assert any(line.startswith("the page to ask from: http://127.0.0.1:") for line in told)
    assert told[-1] == "ended: everything that was taken is answered"


def test_a_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    done = demonstrated(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the server did not start: what it said stands above"
    assert "Traceback" not in done.stderr
