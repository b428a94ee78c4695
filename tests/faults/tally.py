"""Tries every kind of fault and writes the table of docs/faults.md.

python -m tests.faults.tally                       # all kinds, as often as the table says
python -m tests.faults.tally "damaged bundles" --share 0.1
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import pkgutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults import kinds
from tests.faults.kinds.kind import KINDS, Kind, broken

RESULTS = Path(__file__).with_name("results.json")
SEED = 11


def all_kinds() -> dict[str, Kind]:
    """Every kind that a file in kinds/ registers."""
    for module in pkgutil.iter_modules(kinds.__path__):
        importlib.import_module(f"{kinds.__name__}.{module.name}")
    return KINDS


def try_kind(kind: Kind, tries: int, folder: Path, seed: int = SEED) -> Counter[str]:
    """How `tries` tries of a kind ended; those that ended as none may are told at once."""
    counts: Counter[str] = Counter()
    for ending in itertools.islice(kind.endings(seed, folder), tries):
        counts[ending] += 1
        if broken(ending):
            sys.stderr.write(f"{ending}\n")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Try every kind of fault and write down how each try ended.")
    parser.add_argument("kinds", nargs="*", help="names of kinds; all of them where none is given")
    parser.add_argument("--share", type=float, default=1.0, help="of the tries of the table")
    parser.add_argument("--write", action="store_true", help=f"keep the counts in {RESULTS.name}")
    arguments = parser.parse_args()
    known = all_kinds()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    failed = False
    for name in arguments.kinds or sorted(known):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts = try_kind(known[name], max(1, round(known[name].tries * arguments.share)), Path(folder))
        failed |= any(map(broken, counts))
        results[name] = dict(sorted(counts.items()))
        sys.stdout.write(f"{name} ({time.monotonic() - started:.0f} s)\n")
        sys.stdout.writelines(f"  {count:6} {ending}\n" for ending, count in counts.most_common())
        if arguments.write:
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
