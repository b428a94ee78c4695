"""Does a job part by part, so that it can be stopped at any moment and goes on where it was.

    summary = run_job("corpus/", Path("answers"), asked, Engine(Path("bundle")))

A part is answered by itself, whatever was done before it, so that a run that was resumed gives the same bytes. Its bad
rows are written first and its answers last, both under temporary names: where the answers are, the part is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from densepack_runtime.backends import AskedPrecision, Choice, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import progress_bar
from densepack_runtime.host.files import new_file, write_text_atomic
from densepack_runtime.question_answering.answers import Answer, SpanRules
from densepack_runtime.question_answering.json_lines import strict_json
from densepack_runtime.question_answering.pairs import Pair, shown
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.corpora.formats import ADDED, Table, format_of
from densepack_runtime.serving.corpora.out_folder import OutFolder
from densepack_runtime.serving.corpora.plan import Asked, Job, Plan, Task, plan_of
from densepack_runtime.sessions.options import SessionOptions

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """What answers: a bundle, and how it is opened."""

    bundle: Path
    backend: str = "auto"
    precision: AskedPrecision | None = None
    session: SessionOptions = field(default_factory=SessionOptions)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job came to: all its rows and parts, and what this run did of them, in how many seconds."""

    rows: int
    bad_rows: int
    parts: int
    parts_done_before: int
    rows_done_now: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Of this run, with opening the model; 0 where nothing was left to do."""
        return self.rows_done_now / self.seconds if self.rows_done_now else 0.0


def run_job(given: str, out: Path, asked: Asked, engine: Engine, *, overwrite: bool = False) -> Summary:
    """Answer the rows of `given` (a file, a folder, a glob) into the folder `out`, or do what is left of that.

    Raises InputError for what cannot be read or written, and where `out` is of another job; BundleError and
    BackendError where the bundle cannot be opened.
    """
    bundle = Bundle.open(engine.bundle, strict=engine.strict)
    choice = choose_backend(bundle, engine.backend, engine.precision, cache=engine.session.cache)
    plan = plan_of(given, out, asked)
    job = Job(bundle.sha256, f"{choice.backend} {choice.precision}", asked, plan.files)
    folder = OutFolder.begin(out, job, overwrite=overwrite)
    left = [task for task in plan.tasks if not folder.answers(task).exists()]
    start = time.perf_counter()
    if left:
        with open_answerer(bundle, choice, engine.session, asked) as answerer, _progress(plan, left) as advance:
            for task in left:
                answer_task(answerer, task, folder, asked, advance)
    return _summary(plan, folder, left, time.perf_counter() - start)


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


@contextmanager
def _progress(plan: Plan, left: Sequence[Task]) -> Iterator[Advance]:
    """A bar over all rows, those of parts that were finished before as done, with the rate of this run."""
    rows_left = sum(task.part.rows for task in left)
    start, done = time.perf_counter(), 0
    with progress_bar("questions", plan.rows) as advance:
        advance(plan.rows - rows_left)

        def moved(rows: int) -> None:
            nonlocal done
            done += rows
            advance(rows, f"questions, {done / (time.perf_counter() - start):,.0f}/s")

        yield moved


def _summary(plan: Plan, folder: OutFolder, left: Sequence[Task], seconds: float) -> Summary:
    return Summary(
        rows=plan.rows,
        bad_rows=sum(_lines(folder.bad_rows(task)) for task in plan.tasks),
        parts=len(plan.tasks),
        parts_done_before=len(plan.tasks) - len(left),
        rows_done_now=sum(task.part.rows for task in left),
        seconds=seconds,
    )


def _lines(path: Path) -> int:
    """How many there are in a file; 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
