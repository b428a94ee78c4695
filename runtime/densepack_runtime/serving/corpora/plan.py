"""What a job is to do: the input files, cut into numbered parts, and everything that decides what comes out.

plan = plan_of("corpus/*.jsonl", Path("answers"), Asked(question="question", context="context"))
plan.tasks                      # the parts: which rows of which file, and what the output is called
Job(…, plan.files)              # the record that the output keeps, so that only the same job goes on there
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from glob import glob
from pathlib import Path

from densepack_runtime.errors import InputError, joined
from densepack_runtime.host.files import sha256_of
from densepack_runtime.question_answering.pairs import shown
from densepack_runtime.question_answering.question_answerer import Compat
from densepack_runtime.serving.corpora.formats import FORMATS, Format, Part, clash_of, format_of

ROWS = 2048


@dataclass(frozen=True, slots=True)
class Asked:
    """Which columns hold what, and how it is answered; `id` None is the column "id" where there is one."""

    question: str = "question"
    context: str = "context"
    id: str | None = None
    null_threshold: float | None = None
    compat: Compat | None = None
    rows: int = ROWS

    def __post_init__(self) -> None:
        if self.compat is not None and self.null_threshold is not None:
            raise InputError("a null threshold is of the SQuAD rule, and the transformers pipeline had none: give one")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file by its name below the folder that all of them share, and what it holds."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides what comes out: what runs, what is asked, and of which files."""

    bundle: str
    runs_on: str
    asked: Asked
    files: tuple[InputFile, ...]

    def refuse_other(self, begun: Job, place: Path) -> None:
        """Raise InputError, saying what differs, unless `begun` is this job."""
        faults = _differences(begun, self, ("bundle", "runs_on"))
        faults += _differences(begun.asked, self.asked, [field.name for field in fields(Asked)])
        before, now = ({file.name: file.sha256 for file in job.files} for job in (begun, self))
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        faults += [f"the file {name}" for name in changed]
        if faults:
            raise InputError(
                f"{place} was begun by another job, which differs in {joined(faults)}: ask for the same, name another "
                "folder, or begin anew with --overwrite"
            )


def _differences(begun: object, asked: object, names: Sequence[str]) -> list[str]:
    pairs = ((name, getattr(begun, name), getattr(asked, name)) for name in names)
    return [f"{name} ({shown(before)} then, {shown(now)} now)" for name, before, now in pairs if before != now]


@dataclass(frozen=True, slots=True)
class Task:
    """One part of an input file, what its output is called, and the name of the file for messages."""

    path: Path
    part: Part
    name: str
    told: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The input files and their parts in order. All files are of one format, which is that of the output."""

    files: tuple[InputFile, ...]
    tasks: tuple[Task, ...]

    @property
    def rows(self) -> int:
        return sum(task.part.rows for task in self.tasks)


def plan_of(given: str, out: Path, asked: Asked) -> Plan:
    """Find the files, look at their columns, and cut them. Every file is read once, in pieces.

    `given` is a file, a folder or a glob; what lies in `out` is no input. Raises InputError where there is nothing,
    where files are of several formats, and for columns that are missing or would be there twice.
    """
    paths = _files(given, out)
    form = format_of(paths[0])
    if others := [str(path) for path in paths if format_of(path).suffix != form.suffix]:
        raise InputError(
            f"{given} has files of several formats, {paths[0]} and {joined(others, ', ')}: give one of them"
        )
    for path in paths:
        _refuse_columns(path, form, asked)
    names = _names(paths)
    tasks = [
        Task(path, part, f"{number:05d}-{place:05d}{form.suffix}", name)
        for number, (path, name) in enumerate(zip(paths, names, strict=True))
        for place, part in enumerate(form.parts(path, asked.rows))
    ]
    files = [InputFile(name, sha256_of(path)) for path, name in zip(paths, names, strict=True)]
    return Plan(tuple(files), tuple(tasks))


def _files(given: str, out: Path) -> list[Path]:
    """The files that are meant, sorted; of a folder, all below it that have the name of a known format."""
    place = Path(given)
    if place.is_dir():
        found = [path for path in place.rglob("*") if path.suffix.lower() in FORMATS and not _is_hidden(path, place)]
    elif place.exists():
        found = [place]
    else:
        found = [Path(name) for name in glob(given, recursive=True)]  # noqa: PTH207 - it may be absolute
    files = {path.resolve() for path in found if path.is_file()}
    files = {path for path in files if not path.is_relative_to(out.resolve())}
    if not files:
        raise InputError(
            f"there is no file to read at {given}: name a file, a folder or a pattern of {', '.join(FORMATS)}"
        )
    return sorted(files)


def _is_hidden(path: Path, folder: Path) -> bool:
    """As for other readers of such folders: what begins with a dot or an underscore is none of the data."""
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _names(paths: Sequence[Path]) -> list[str]:
    """Of each, what tells it from the others, as text whatever its bytes are."""
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    names = (path.relative_to(shared).as_posix() for path in paths)
    return [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]


def _refuse_columns(path: Path, form: Format, asked: Asked) -> None:
    names = form.names(path)
    wanted = [name for name in (asked.question, asked.context, asked.id) if name is not None]
    if form.has_header and (missing := [name for name in wanted if name not in names]):
        raise InputError(f"{path} has no column {joined(missing, ', ')}; it has {joined(names, ', ')}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has more than one column {joined(twice, ', ')}: columns are taken by name")
    if clash := clash_of(names):
        raise InputError(f"{path} {clash}")
