"""What a model card says, gathered from a checkpoint folder and from the measurements made on it.

    facts = gather(Path("checkpoint"), evaluation=..., benchmark=...)

A checkpoint that densepack trained carries `training.json` (every stage with its settings) and `training_log.csv`; one
that it did not has neither, and its card says less.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from densepack_export.measurements import measurement, read_json, read_measurement
from densepack_export.plots.speed import TradeOff
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.formats.writer import LOG, RECORD
from densepack_models.inspection import Inspection, inspect
from densepack_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """EM and F1 in percent over `count` questions of a SQuAD file, as `densepack eval --json` prints them."""

    squad: str
    exact_match: float
    f1: float
    count: int

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        names = tuple(field.name for field in fields(cls))
        document = read_measurement(path, names)
        return measurement(path).record({name: document[name] for name in names}, cls)


@dataclass(frozen=True)
class CardFacts:
    """Everything a card can say; what is None or empty was not measured and is left out of it."""

    folder: Path
    checkpoint: Checkpoint
    inspection: Inspection
    stages: list[dict[str, Any]]
    log: list[dict[str, str]]
    evaluation: Evaluation | None = None
    original: Evaluation | None = None
    benchmark: dict[str, Any] | None = None
    trade_offs: tuple[TradeOff, ...] = ()

    @property
    def file_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def gather(
    folder: Path,
    *,
    evaluation: Path | None = None,
    original: Path | None = None,
    benchmark: Path | None = None,
    trade_offs: Path | None = None,
) -> CardFacts:
    """Read the checkpoint and the measurement files. Raises InputError (CheckpointError) when one is not what it should
    be.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: a card is written into a checkpoint's folder")
    checkpoint = load_checkpoint(folder)
    return CardFacts(
        folder=folder,
        checkpoint=checkpoint,
        inspection=inspect(checkpoint),
        stages=training_stages(folder),
        log=training_rows(folder),
        evaluation=None if evaluation is None else Evaluation.read(evaluation),
        original=None if original is None else Evaluation.read(original),
        benchmark=None if benchmark is None else read_measurement(benchmark, ("ratios", "hardware", "versions")),
        trade_offs=() if trade_offs is None else read_trade_offs(trade_offs),
    )


def training_stages(folder: Path) -> list[dict[str, Any]]:
    """The records of the stages that made a checkpoint, first one first; empty for one that was not trained here."""
    path = folder / RECORD
    stages: list[dict[str, Any]] = []
    record = read_measurement(path, ("command",)) if path.is_file() else None
    while record is not None:
        stages.insert(0, record)
        record = record.get("before")
    return stages


def training_rows(folder: Path) -> list[dict[str, str]]:
    """The training log, a dict of texts a row."""
    path = folder / LOG
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_trade_offs(path: Path) -> tuple[TradeOff, ...]:
    """A JSON list of objects with the fields of TradeOff, densest first."""
    return tuple(sorted(read_json(path, tuple[TradeOff, ...]), key=lambda entry: -entry.linear_density))
