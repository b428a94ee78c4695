"""Answers the parts of a job in other processes, here or in a cluster: actors of Ray.

    with on_ray(Crew(2), engine, choice, job, folder) as answer:
        answer(plan.tasks, print)

Each opens the bundle once and takes one part after another. No rows travel: a worker reads and writes files as a
process alone does. When one dies, Ray starts it again and gives it the same part: it is written anew, and only whole.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from densepack_runtime.backends import Choice, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, BundleError, DensepackError
from densepack_runtime.host.console import one_line
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.cluster import cluster, gpu_share
from densepack_runtime.serving.corpora.answering import Advance, AnswerTasks, Engine, answer_task, open_answerer
from densepack_runtime.serving.corpora.out_folder import OutFolder
from densepack_runtime.serving.corpora.plan import Job, Task

# A part that kills its worker each time is not tried for ever.
MOST_TRIES = 3
_LOGGER = logging.getLogger("densepack")


@dataclass(frozen=True, slots=True)
class Crew:
    """So many workers, in the cluster at an address, or on this host."""

    workers: int
    address: str | None = None


class _Worker:
    """One process; what it is given has to mean the same on its host."""

    def __init__(self, engine: Engine, job: Job, folder: OutFolder) -> None:
        self._engine, self._job, self._folder = engine, job, folder

    @cached_property
    def _answerer(self) -> QuestionAnswerer:
        engine = self._engine
        bundle = Bundle.open(engine.bundle, strict=engine.strict)
        if bundle.sha256 != self._job.bundle:
            raise BundleError(f"a worker found another bundle at {engine.bundle}: all of them need the same")
        choice = choose_backend(bundle, engine.backend, engine.precision)
        return open_answerer(bundle, choice, engine.session, self._job.asked)

    def open(self) -> None:
        """Open the bundle. A worker that was started again does so with its first part."""
        _ = self._answerer

    def answer(self, task: Task) -> int:
        """Answer a part, and say how many rows it had."""
        answer_task(self._answerer, task, self._folder, self._job.asked, lambda _: None)
        return task.part.rows


@contextmanager
def on_ray(crew: Crew, engine: Engine, choice: Choice, job: Job, folder: OutFolder) -> Iterator[AnswerTasks]:
    """Start the workers, and give what answers parts of a job with them.

    Raises BackendError for a cluster that cannot be joined or has no GPU where one is needed, and for a part that its
    worker does not survive; what a worker raises is raised here.
    """
    with cluster(crew.address, cpus=max(engine.session.cpu_threads, crew.workers)) as ray:
        threads = max(1, int(engine.session.threads or ray.cluster_resources()["CPU"]) // crew.workers)
        asked = {"num_cpus": threads, "num_gpus": gpu_share(ray, crew.workers) if choice.on_gpu else 0}
        worker = ray.remote(max_restarts=-1, max_task_retries=MOST_TRIES - 1, **asked)(_Worker)
        theirs = replace(
            engine,
            backend=choice.backend,
            precision=choice.precision,
            session=replace(engine.session, threads=threads),
        )
        _LOGGER.info("backend %s; %d workers with %d threads each", choice, crew.workers, threads)

        def answer(tasks: Sequence[Task], advance: Advance) -> None:
            workers = [worker.remote(theirs, job, folder) for _ in range(min(crew.workers, len(tasks)))]
            _answer_all(ray, workers, tasks, advance)
            folder.sweep()

        yield answer


def _answer_all(ray: Any, workers: Sequence[Any], tasks: Sequence[Task], advance: Advance) -> None:
    """Give every worker a part as soon as it is free. One for which the cluster has no room yet holds none."""
    busy: dict[Any, tuple[Any, Task | None]] = {worker.open.remote(): (worker, None) for worker in workers}
    waiting, unfinished = deque(tasks), len(tasks)
    while unfinished:
        [ended], _ = ray.wait(list(busy))
        worker, task = busy.pop(ended)
        rows = _result(ray, ended, task)
        if task is not None:
            unfinished -= 1
            advance(rows)
        if waiting:
            task = waiting.popleft()
            busy[worker.answer.remote(task)] = worker, task


def _result(ray: Any, ended: Any, task: Task | None) -> Any:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DensepackError | OSError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        what = "opened the bundle" if task is None else f"answered {task.name} of {task.told}"
        raise BackendError(
            f"a worker ended {MOST_TRIES} times while it {what}: fewer --workers and parts of fewer --rows need less "
            f"memory ({one_line(error)[:200]})"
        ) from error
