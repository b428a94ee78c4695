"""Which extras can be installed with which Python: python -m tests.extras python3.11 python3.12 python3.13

Asks pip what it would install, within constraints.txt and from wheels alone, and installs nothing. It needs a package
index, and so is no part of the suite.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def installable(python: str, extra: str) -> str:
    """`yes`, or pip's last word."""
    target = f"{REPOSITORY}[{extra}]"
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary", ":all:"]
    constraints = ["--constraint", str(REPOSITORY / "constraints.txt")]
    done = subprocess.run([*command, *constraints, target], capture_output=True, text=True, timeout=600, check=False)
    return "yes" if done.returncode == 0 else (done.stderr.strip() or "no reason").splitlines()[-1]


def main(pythons: Sequence[str]) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for python in pythons:
        for extra in extras:
            sys.stdout.write(f"{python}\t{extra}\t{installable(python, extra)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
