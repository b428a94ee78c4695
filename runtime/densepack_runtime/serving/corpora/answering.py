"""Answers one part after another in this process.

    with alone(bundle, choice, engine.session, job, folder) as answer:
        answer(plan.tasks, print)

A part is answered by itself, whatever was done before it, so that a run that was resumed gives the same bytes. Its bad
rows are written first and its answers last, both under temporary names: where the answers are, the part is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from densepack_runtime.backends import AskedPrecision, Choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.files import new_file, write_text_atomic
from densepack_runtime.question_answering.answers import Answer, SpanRules
from densepack_runtime.question_answering.json_lines import strict_json
from densepack_runtime.question_answering.pairs import Pair, shown
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.corpora.formats import ADDED, Table, format_of
from densepack_runtime.serving.corpora.out_folder import OutFolder
from densepack_runtime.serving.corpora.plan import Asked, Job, Task
from densepack_runtime.sessions.options import SessionOptions

# Hears of so many rows that are done.
Advance = Callable[[int], None]
AnswerTasks = Callable[[Sequence[Task], Advance], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """What answers: a bundle, and how it is opened."""

    bundle: str | Path
    backend: str = "auto"
    precision: AskedPrecision | None = None
    session: SessionOptions = field(default_factory=SessionOptions)
    strict: bool = False


@contextmanager
def alone(
    bundle: Bundle, choice: Choice, session: SessionOptions, job: Job, folder: OutFolder
) -> Iterator[AnswerTasks]:
    """Opens a bundle, and gives what answers parts of a job with it."""
    with open_answerer(bundle, choice, session, job.asked) as answerer:

        def answer(tasks: Sequence[Task], advance: Advance) -> None:
            for task in tasks:
                answer_task(answerer, task, folder, job.asked, advance)

        yield answer


def open_answerer(bundle: Bundle, choice: Choice, session: SessionOptions, asked: Asked) -> QuestionAnswerer:
    """What answers as it was asked."""
    return QuestionAnswerer.of(bundle, choice, session, rules=SpanRules(null_threshold=asked.null_threshold))


def answer_task(answerer: QuestionAnswerer, task: Task, folder: OutFolder, asked: Asked, advance: Advance) -> None:
    """Answer one part and write it; `advance` hears of every row.

    Raises InputError for a file that has fewer rows than when it was cut.
    """
    table = format_of(task.path).read(task.path, task.part)
    kept: dict[int, Answer] = {}
    bad: dict[int, InputError] = {}
    found = answerer.answer_many(_pairs(table, asked), compat=asked.compat, on_error="yield")
    for place, answer in enumerate(found):
        if isinstance(answer, InputError):
            bad[place] = answer
        else:
            kept[place] = answer
        advance(1)
    if len(kept) + len(bad) != task.part.rows:
        raise InputError(f"{task.path} has changed since it was cut into parts: begin anew with --overwrite")
    if bad:
        write_text_atomic(folder.bad_rows(task), "".join(_told(table, task, asked, bad)))
    answers = [answer.as_dict() for answer in kept.values()]
    added = {name: [answer[name] for answer in answers] for name in ADDED}
    with new_file(folder.answers(task)) as temporary:
        table.write(temporary, list(kept), added)


def _pairs(table: Table, asked: Asked) -> Iterator[Pair | InputError]:
    columns = (asked.question, asked.context)
    for place, texts in enumerate(zip(*map(table.column, columns), strict=True)):
        faults = [
            f'"{name}" must be a string, it is {shown(text)}'
            for name, text in zip(columns, texts, strict=True)
            if not isinstance(text, str)
        ]
        if place in table.faults:
            yield table.faults[place]
        elif faults:
            yield InputError(faults[0])
        else:
            yield texts


def _told(table: Table, task: Task, asked: Asked, bad: dict[int, InputError]) -> Iterator[str]:
    """Bad rows as JSON lines: the file, the number of the row in it from 1, its id where it has one, the reason."""
    ids = table.column(asked.id or "id")
    for place, fault in bad.items():
        name = ids[place]
        told = {} if name is None else {"id": name if isinstance(name, str | int) else shown(name)}
        row = {"file": task.told, "row": task.part.first + place + 1, **told, "reason": str(fault)}
        yield strict_json(row) + "\n"
