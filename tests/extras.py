"""Install every extra alone, in an environment of its own: python -m tests.extras python3.11 python3.12 python3.13

Builds the wheel and the sdist, and for each Python and extra makes an environment, installs the wheel with that extra
(one extra from the sdist, too) in the versions of constraints.txt, and asks `densepack doctor` there. What came is
written beside this file, for docs/install.md; an interrupted run goes on, and one begins anew where that file was
removed. It needs a package index and half an hour, and so is no part of the suite.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_suffix(".json")
# What every environment has before anything is installed.
_OF_VENV = ("pip", "setuptools")


def build(folder: Path) -> dict[str, Path]:
    """The two distributions, by their kind."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def installed(python: str, distribution: Path, extra: str) -> dict[str, Any]:
    """What an installation has, or pip's last word."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside, constraints = f"{folder}/bin/python", str(REPOSITORY / "constraints.txt")
        wanted = f"{distribution}[{extra}]" if extra else str(distribution)
        failed = _failure(inside, "-m", "pip", "install", "--quiet", "--constraint", constraints, wanted)
        failed = failed or _failure(inside, "-m", "pip", "check") or _failure(f"{folder}/bin/densepack", "doctor")
        if failed:
            return {"failed": failed}
        [site] = Path(folder).glob("lib/python*/site-packages")
        return {"mb": round(sum(_sizes(site)) / 1e6, 1), "packages": len(list(site.glob("*.dist-info"))) - 1}


def _failure(*command: str) -> str | None:
    """None, or the line that says what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == 0:
        return None
    lines = (done.stderr.strip() or done.stdout.strip() or "no reason").splitlines()
    return next((line for line in lines if line.lower().startswith("error")), lines[-1])


def _sizes(site: Path) -> Iterator[int]:
    """Of the files that came, without what compiling adds."""
    for path in site.rglob("*"):
        ours = path.relative_to(site).parts[0].split("-")[0]
        if path.is_file() and path.suffix != ".pyc" and ours not in _OF_VENV:
            yield path.stat().st_size


def main(pythons: Sequence[str]) -> int:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder))
        for python in pythons:
            command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
            version = subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()
            for extra, kind in [("", "wheel"), ("cpu", "sdist"), *((extra, "wheel") for extra in extras)]:
                of_all = found.setdefault(f"{extra or 'nothing'}, {kind}", {})
                if version not in of_all:
                    of_all[version] = installed(python, built[kind], extra)
                    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                sys.stdout.write(f"{version}\t{extra or 'nothing'}, {kind}\t{of_all[version]}\n")
                sys.stdout.flush()
    return int(any("failed" in one for ours in found.values() for one in ours.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
