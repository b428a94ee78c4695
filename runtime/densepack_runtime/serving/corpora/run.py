"""Does a job part by part, so that it can be stopped at any moment and goes on where it was.

summary = run_job("corpus/", Path("answers"), asked, Engine(Path("bundle")))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.console import progress_bar
from densepack_runtime.serving.corpora.answering import Advance, AnswerTasks, Engine, alone
from densepack_runtime.serving.corpora.out_folder import OutFolder
from densepack_runtime.serving.corpora.plan import Asked, Job, Plan, Task, plan_of
from densepack_runtime.serving.corpora.workers import Crew, on_ray


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


def run_job(
    given: str, out: Path, asked: Asked, engine: Engine, crew: Crew | None = None, *, overwrite: bool = False
) -> Summary:
    """Answer the rows of `given` (a file, a folder, a glob) into the folder `out`, or do what is left of that.

    A crew does it in other processes. Raises InputError for what cannot be read or written, and where `out` is of
    another job; BundleError and BackendError where the bundle cannot be opened, or a crew cannot do it.
    """
    bundle = Bundle.open(engine.bundle, strict=engine.strict)
    choice = choose_backend(bundle, engine.backend, engine.precision, cache=engine.session.cache)
    plan = plan_of(given, out, asked)
    job = Job(bundle.sha256, f"{choice.backend} {choice.precision}", asked, plan.files)
    folder = OutFolder.begin(out, job, overwrite=overwrite)
    left = [task for task in plan.tasks if not folder.answers(task).exists()]
    start = time.perf_counter()
    if left:
        theirs = replace(engine, bundle=bundle.folder.absolute())
        opening: AbstractContextManager[AnswerTasks] = (
            on_ray(crew, theirs, choice, job, folder) if crew else alone(bundle, choice, engine.session, job, folder)
        )
        with opening as answer, _progress(plan, left) as advance:
            answer(left, advance)
    return _summary(plan, folder, left, time.perf_counter() - start)


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
