"""mypy over source files and the stubs of one TensorRT.

checked = check_types(bindings, files, report_folder)
checked.faults[path], checked.typed_share
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tensorrt_api.bindings import Bindings
from tests.tensorrt_api.sources import REPOSITORY

# Other packages are left out: they are Any, torch alone would take ten times as long, and `mypy` as it stands in
# pyproject.toml sees them. An override has to be marked, so that one whose name TensorRT does not know is refused.
OPTIONS = (
    *("--config-file", "pyproject.toml", "--cache-dir", os.devnull, "--no-error-summary", "--hide-error-context"),
    *("--no-site-packages", "--ignore-missing-imports", "--follow-imports", "silent"),
    *("--enable-error-code", "explicit-override", "--show-absolute-path"),
)
MYPY_SECONDS = 240  # it takes three
_FAULT = re.compile(r"^(?P<path>[^:\n]+):(?P<line>\d+): error: (?P<told>.*)$", re.MULTILINE)
_SHARE = re.compile(r"^ *(?P<module>[\w.]+) +(?P<any>\d+) +(?P<all>\d+) +[\d.]+%$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fault:
    line: int
    told: str


@dataclass(frozen=True, slots=True)
class Checked:
    """`shares` has, by module, how many expressions mypy knows nothing of (Any), and how many there are."""

    faults: Mapping[Path, Sequence[Fault]]
    shares: Mapping[str, tuple[int, int]]


def check_types(bindings: Bindings, files: Sequence[Path], folder: Path) -> Checked:
    """What mypy says of the files, and nothing of what they import. `folder` gets its report."""
    command = [sys.executable, "-m", "mypy", *OPTIONS, "--any-exprs-report", str(folder), *map(str, files)]
    environment = {**os.environ, "MYPYPATH": str(bindings.mypy_path)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=MYPY_SECONDS, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"mypy failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    faults: dict[Path, list[Fault]] = {path: [] for path in files}
    for match in _FAULT.finditer(done.stdout):
        faults[Path(match["path"])].append(Fault(int(match["line"]), match["told"]))
    report = (folder / "any-exprs.txt").read_text(encoding="utf-8")
    shares = {match["module"]: (int(match["any"]), int(match["all"])) for match in _SHARE.finditer(report)}
    return Checked(faults, shares)
