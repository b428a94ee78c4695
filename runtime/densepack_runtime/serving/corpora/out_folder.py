"""The folder that a job writes: a file for each part, and beside them, where readers of data do not look, the rest.

OUT/00000-00000.jsonl           the answered rows of a part; it is there when the part is finished
OUT/_bad/00000-00000.jsonl      the rows of it that could not be answered, with the reason
OUT/_job.json                   the job, so that only the same one goes on here
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.folders import files_in, refuse_to_replace
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.question_answering.json_lines import strict_json
from densepack_runtime.serving.corpora.plan import Job, Task

RECORD = Document("_job.json", InputError, "name another folder, or begin anew with --overwrite")
_LEFT = re.compile(r"(_bad/)?\.[^/]+\.tmp")
_OWN = re.compile(rf"(_bad/)?\d+-\d+\.\w+|{re.escape(RECORD.name)}|{_LEFT.pattern}")


@dataclass(frozen=True, slots=True)
class OutFolder:
    """Where the parts of one job are."""

    place: Path

    @classmethod
    def begin(cls, place: Path, job: Job, *, overwrite: bool = False) -> OutFolder:
        """The folder of this job, new or begun. Raises InputError where it is another job's, or somebody else's."""
        record = place / RECORD.name
        if overwrite or not record.exists():
            refuse_to_replace(place, _strangers)
            _clear(place)
        if record.exists():
            job.refuse_other(RECORD.read(record, Job), place)
        else:
            write_text_atomic(record, strict_json(data_from_record(job)) + "\n")
        folder = cls(place.absolute())
        folder.sweep()
        return folder

    def sweep(self) -> None:
        """Remove what a process that was killed had begun to write."""
        for name in filter(_LEFT.fullmatch, files_in(self.place)):
            (self.place / name).unlink(missing_ok=True)

    def answers(self, task: Task) -> Path:
        """Where the answered rows of a part are once it is finished."""
        return self.place / task.name

    def bad_rows(self, task: Task) -> Path:
        """Where those rows of a part are that could not be answered; there is none where all could."""
        return self.place / "_bad" / f"{Path(task.name).stem}.jsonl"


def _strangers(place: Path) -> list[str]:
    """What no job wrote."""
    found = files_in(place)
    own = _OWN if RECORD.name in found else _LEFT
    return sorted(name for name in found if not own.fullmatch(name))


def _clear(place: Path) -> None:
    """Remove what a job wrote, its record last: until then the folder is that job's."""
    for name in sorted(files_in(place), key=lambda name: name == RECORD.name):
        (place / name).unlink()
