"""How every command here writes its result: in the published format, packed again to see that nothing is lost.

with published(packed, out, start, half=True, overwrite=False) as written:
    write_record(written.folder, run_record("prune", …), result)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.formats.json_files import write_text
from densepack_models.formats.writer import RECORD, new_transformers
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import logit_difference, pack
from densepack_runtime.question_answering.squad import SquadDataset


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint in its temporary folder, and packed from there; `difference` is the largest |Δlogit| of both."""

    folder: Path
    packed: PackedBertForQuestionAnswering
    difference: float


@contextmanager
def published(
    packed: PackedBertForQuestionAnswering, out: Path, start: Checkpoint, *, half: bool, overwrite: bool
) -> Iterator[Published]:
    """Write a packed module in the published format, with the tokenizer of its start; it gets its name at the end."""
    with new_transformers(
        packed,
        out,
        tokenizer_json=start.tokenizer_json,
        dtype=torch.float16 if half else torch.float32,
        overwrite=overwrite,
    ) as folder:
        written = load_checkpoint(folder)
        with torch.random.fork_rng(devices=[]):
            again = pack(written)
            difference = logit_difference(written, again)
        yield Published(folder, again, difference)


def run_record(
    command: str, command_line: str | None, start: Checkpoint, data: SquadDataset, before: Path | None
) -> dict[str, Any]:
    """What all records hold, as plain data; `before` is the folder of the start, whose record goes on in this one."""
    earlier = None if before is None else before / RECORD
    return {
        "command": command,
        "command_line": command_line,
        "start": {"source": start.source, "sha256": start.sha256},
        "data_sha256": data.sha256,
        "questions": len(data.questions),
        "before": json.loads(earlier.read_text(encoding="utf-8")) if earlier and earlier.is_file() else None,
    }


def write_record(folder: Path, record: dict[str, Any], result: dict[str, Any]) -> None:
    write_text(folder / RECORD, json.dumps(record | {"result": result}, indent=1) + "\n")
