"""The record of a training: one row of a CSV file every few steps, kept across pauses and resumptions.

log = TrainingLog(folder / "log.csv", resumed_at=0)
log.add(step=10, loss=1.25, …)
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from densepack_runtime.host.files import new_file

COLUMNS = ("step", "loss", "ce", "kd", "reg", "tau", "lambda", "density", "heads", "em", "f1", "seconds")
Values = dict[str, float | int | None]


class TrainingLog:
    """Appends rows; what was logged after the step that a run resumes from is dropped first."""

    def __init__(self, path: Path, *, resumed_at: int) -> None:
        self.path = path
        rows = [row for row in _read(path) if int(row["step"]) <= resumed_at]
        self._seconds_before = float(rows[-1]["seconds"]) if rows else 0.0
        self._began = time.monotonic()
        with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    @property
    def seconds(self) -> float:
        """Time spent in this training, earlier runs included."""
        return self._seconds_before + time.monotonic() - self._began

    def add(self, values: Values) -> None:
        """One row; a missing value stays empty."""
        row = {name: _text(values.get(name)) for name in COLUMNS} | {"seconds": f"{self.seconds:.1f}"}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)


def write_history(path: Path, stage: str, log: Path, *, before: Path | None) -> None:
    """Write the rows of the log `before` (where there is one) and of this one, each with the stage it belongs to."""
    earlier = [] if before is None else [row for row in _read(before) if "stage" in row]
    rows = earlier + [{"stage": stage, **row} for row in _read(log)]
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("stage", *COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def describe_row(values: Values) -> str:
    """The numbers of a row in words, for the progress bar."""
    shown = [f"loss {values['loss']:.3f}"] if values.get("loss") is not None else []
    shown += [f"{name} {values[name]:.3f}" for name in ("ce", "kd") if values.get(name) is not None]
    if values.get("tau") is not None:
        shown += [f"τ {values['tau']:.3f}", f"λ {values['lambda']:.1f}"]
    if values.get("density") is not None:
        shown += [f"density {100 * (values['density'] or 0):.1f} %", f"heads {values['heads']}"]
    if values.get("f1") is not None:
        shown.append(f"F1 {values['f1']:.2f}")
    return ", ".join(shown)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["seconds"]]
