"""Questions in, answers out: windows, batches, model and spans in one object.

with QuestionAnswerer.open("bundle/") as qa:
    answer = qa.answer(question="Who …?", context="…")
    for answer in qa.answer_many(pairs): ...                 # a stream of any length, in input order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.answers import Answer, QuestionSpans, SpanRules, span_candidates
from densepack_runtime.batching import TOKEN_BUDGET, length_sorted_batches
from densepack_runtime.console import progress_bar
from densepack_runtime.errors import InputError
from densepack_runtime.pipeline_compat import PipelineRules, pipeline_answers
from densepack_runtime.session import Batch, Logits, Precision, Session
from densepack_runtime.squad import SquadDataset
from densepack_runtime.windows import Window, Windower

Compat = Literal["transformers"]
Pair = tuple[str, str]
# Questions that are read ahead and sorted by length together: what bounds the memory of a stream.
POOL_QUESTIONS = 1024


@dataclass
class _Pool:
    """Questions that are answered together: their contexts, and what was found so far."""

    contexts: list[str] = field(default_factory=list)
    windows: list[list[Window]] = field(default_factory=list)
    errors: dict[int, InputError] = field(default_factory=dict)


class QuestionAnswerer:
    """Answers questions with a session and the windower that belongs to its model.

    `rules` decide on spans, `compat="transformers"` answers as the transformers 4 pipeline did instead. Not tied to a
    thread, but one object serves one caller at a time unless its session is thread-safe (ONNX Runtime's is).
    """

    def __init__(
        self,
        session: Session,
        windower: Windower,
        *,
        rules: SpanRules | None = None,
        token_budget: int = TOKEN_BUDGET,
        truncate_question: bool = False,
    ) -> None:
        self.session = session
        self.windower = windower
        self.rules = rules or SpanRules()
        self.token_budget = token_budget
        self.truncate_question = truncate_question

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        rules: SpanRules | None = None,
    ) -> Self:
        """Open a bundle. Raises BundleError when it is damaged, BackendError when nothing here can run it."""
        from densepack_runtime.backends import open_session
        from densepack_runtime.bundle import Bundle

        opened = Bundle.open(bundle)
        manifest = opened.manifest
        windower = Windower(opened.tokenizer_json, max_length=manifest.max_length, doc_stride=manifest.doc_stride)
        session = open_session(opened, backend=backend, precision=precision, threads=threads)
        return cls(session, windower, rules=rules)

    def close(self) -> None:
        """Free the model."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, *, question: str, context: str, compat: Compat | None = None) -> Answer:
        """The best answer to one question. Raises InputError for texts that cannot be used."""
        return self.best_answers(question=question, context=context, count=1, compat=compat)[0]

    def best_answers(
        self, *, question: str, context: str, count: int = 5, compat: Compat | None = None
    ) -> list[Answer]:
        """The best `count` answers, best first (fewer when the context has fewer spans)."""
        if count < 1:
            raise InputError(f"count must be at least 1, it is {count}")
        if compat is not None:
            found = self._ranked([(question, context)], compat, PipelineRules(top_k=count))
        else:
            found = self._ranked([(question, context)], None, None, replace(self.rules, n_best=max(20, count)))
        [answers] = list(found)
        if isinstance(answers, InputError):
            raise answers
        return answers[:count]

    @overload
    def answer_many(
        self, pairs: Iterable[Pair], *, progress: bool = False, compat: Compat | None = None
    ) -> Iterator[Answer]: ...

    @overload
    def answer_many(
        self,
        pairs: Iterable[Pair | InputError],
        *,
        progress: bool = False,
        compat: Compat | None = None,
        on_error: Literal["yield"],
    ) -> Iterator[Answer | InputError]: ...

    def answer_many(
        self,
        pairs: Iterable[Pair | InputError],
        *,
        progress: bool = False,
        compat: Compat | None = None,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Answer | InputError]:
        """The best answer to each (question, context), in input order; memory does not grow with the stream.

        A pair that cannot be used raises InputError; with `on_error="yield"` the error comes in its place and the rest
        goes on (an InputError among the pairs is passed through).
        """
        for answers in self._with_progress(self._ranked(pairs, compat), pairs, progress):
            if isinstance(answers, InputError):
                if on_error == "raise":
                    raise answers
                yield answers
            else:
                yield answers[0]

    def predict(self, dataset: SquadDataset, *, progress: bool = False) -> dict[str, str]:
        """The answer text of every question of a SQuAD file, by id. Raises InputError as `answer` does."""
        pairs = [(question.question, question.context) for question in dataset.questions]
        answers = self.answer_many(pairs, progress=progress)
        return {question.id: answer.text for question, answer in zip(dataset.questions, answers, strict=True)}

    def _with_progress(
        self, found: Iterator[list[Answer] | InputError], pairs: Iterable[Pair | InputError], progress: bool
    ) -> Iterator[list[Answer] | InputError]:
        if not progress:
            yield from found
            return
        total = len(pairs) if isinstance(pairs, Sequence) else None
        with progress_bar("questions", total) as advance:
            for answers in found:
                yield answers
                advance(1)

    def _ranked(
        self,
        pairs: Iterable[Pair | InputError],
        compat: Compat | None,
        pipeline_rules: PipelineRules | None = None,
        rules: SpanRules | None = None,
    ) -> Iterator[list[Answer] | InputError]:
        """The ranked answers to each pair, or the InputError that it gave."""
        if compat not in (None, "transformers"):
            raise InputError(f"unknown compat mode {compat!r}; known: transformers")
        source = iter(pairs)
        while chunk := list(islice(source, POOL_QUESTIONS)):
            pool = self._pool(chunk)
            if compat is None:
                yield from self._span_answers(pool, rules or self.rules)
            else:
                yield from self._pipeline_answers(pool, pipeline_rules or PipelineRules())

    def _pool(self, chunk: Sequence[Pair | InputError]) -> _Pool:
        pool = _Pool()
        good = (pair for pair in chunk if not isinstance(pair, InputError))
        results = self.windower.windows_or_errors(good, truncate_question=self.truncate_question)
        for index, pair in enumerate(chunk):
            found = pair if isinstance(pair, InputError) else next(results)
            if isinstance(found, InputError):
                pool.errors[index] = found
            pool.contexts.append("" if isinstance(pair, InputError) else pair[1])
            pool.windows.append(
                [] if isinstance(found, InputError) else [_renumbered(window, index) for window in found]
            )
        return pool

    def _run(self, pool: _Pool) -> Iterator[tuple[Batch, Logits]]:
        """All windows of a pool in batches of similar length, with their logits."""
        under_way: deque[Batch] = deque()

        def batches() -> Iterator[Batch]:
            windows = [window for group in pool.windows for window in group]
            for batch in length_sorted_batches(
                windows, pad_id=self.windower.pad_id, token_budget=self.token_budget, pool_windows=len(windows) or 1
            ):
                under_way.append(batch)
                yield batch

        for logits in self.session.run_many(batches()):
            yield under_way.popleft(), logits

    def _span_answers(self, pool: _Pool, rules: SpanRules) -> Iterator[list[Answer] | InputError]:
        questions = [QuestionSpans() for _ in pool.contexts]
        for batch, logits in self._run(pool):
            candidates = span_candidates(batch, logits, rules)
            for row, window in enumerate(batch.windows):
                questions[window.example].add(window, candidates, row)
        for index, (question, context) in enumerate(zip(questions, pool.contexts, strict=True)):
            yield pool.errors[index] if index in pool.errors else question.ranked(context, rules)

    def _pipeline_answers(self, pool: _Pool, rules: PipelineRules) -> Iterator[list[Answer] | InputError]:
        logits_of: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for batch, logits in self._run(pool):
            for row, window in enumerate(batch.windows):
                key = (window.example, window.first_token)
                logits_of[key] = (logits.start[row, : window.length], logits.end[row, : window.length])
        for index, (context, windows) in enumerate(zip(pool.contexts, pool.windows, strict=True)):
            if index in pool.errors:
                yield pool.errors[index]
                continue
            of_windows = [logits_of.pop((index, window.first_token)) for window in windows]
            yield pipeline_answers(context, windows, of_windows, rules=rules)


def _renumbered(window: Window, example: int) -> Window:
    return window if window.example == example else replace(window, example=example)
