"""Questions in, answers out: windows, batches, model and spans in one object.

with QuestionAnswerer.open("bundle/") as qa:
    answer = qa.answer(question="Who …?", context="…")
    for answer in qa.answer_many(pairs): ...                 # a stream of any length, in input order
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from densepack_runtime.errors import InputError
from densepack_runtime.host.console import progress_bar
from densepack_runtime.question_answering.answers import Answer, Rules, SpanRules, null_odds
from densepack_runtime.question_answering.pairs import Given
from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.question_answering.pools import Pool, answer_stream, pools_of, ranked, run_pool
from densepack_runtime.question_answering.squad import SquadDataset
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, Session

if TYPE_CHECKING:
    from densepack_runtime.backends import AskedPrecision, Choice
    from densepack_runtime.bundle import Bundle

Compat = Literal["transformers"]
_LOGGER = logging.getLogger("densepack")


@dataclass(frozen=True, slots=True)
class SquadPredictions:
    """Answer texts by question id. For SQuAD 2 also the null odds: score of "no answer" less that of the best span.

    `failures` are the questions that could not be answered, and why, where they were to be recorded.
    """

    texts: dict[str, str] = field(default_factory=dict)
    null_odds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, InputError] = field(default_factory=dict)


class QuestionAnswerer:
    """Answers questions with a session and the windower that belongs to its model.

    `rules` decide on spans; with `compat="transformers"`, `pipeline_rules` do, as the transformers 4 pipeline did.
    `batching` says how large batches are. An over-long question is an error unless `truncate_question`. Errors name
    `backend`, by default the session's class.
    Safe to share between threads when its session is (ONNX Runtime's is).
    """

    def __init__(
        self,
        session: Session,
        windower: Windower,
        *,
        rules: SpanRules | None = None,
        pipeline_rules: PipelineRules | None = None,
        batching: Batching | None = None,
        truncate_question: bool = False,
        backend: str | None = None,
    ) -> None:
        self.session = session
        self.windower = windower
        self.rules = rules or SpanRules()
        self.pipeline_rules = pipeline_rules or PipelineRules()
        self.batching = batching or Batching()
        self.truncate_question = truncate_question
        self.backend = backend

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        *,
        backend: str = "auto",
        precision: AskedPrecision | None = None,
        threads: int | None = None,
        cuda_graphs: bool = True,
        cache: str | Path | None = None,
        rules: SpanRules | None = None,
        pipeline_rules: PipelineRules | None = None,
        truncate_question: bool = False,
        strict: bool = False,
    ) -> Self:
        """Open a bundle; which backend it took and why goes to the logger `densepack`.

        The precision "fastest" is the fastest of what `densepack prove` found here, without it what "auto" takes.
        What the backend compiles is kept in `cache`, by default the folder that DENSEPACK_CACHE names, or BUNDLE.cache.
        `strict` refuses a bundle of which nobody has shown that it answers like its checkpoint. Raises BundleError when
        it is damaged, BackendError when nothing here can run it.
        """
        from densepack_runtime.backends import choose_backend
        from densepack_runtime.bundle import Bundle

        options = SessionOptions(threads=threads, cuda_graphs=cuda_graphs, cache=None if cache is None else Path(cache))
        opened = Bundle.open(bundle, strict=strict)
        return cls.of(
            opened,
            choose_backend(opened, backend, precision, cache=options.cache),
            options,
            rules=rules,
            pipeline_rules=pipeline_rules,
            truncate_question=truncate_question,
        )

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        choice: Choice,
        options: SessionOptions = DEFAULT,
        *,
        rules: SpanRules | None = None,
        pipeline_rules: PipelineRules | None = None,
        truncate_question: bool = False,
    ) -> Self:
        """Open what was chosen of an opened bundle. Raises as `open` does."""
        from densepack_runtime.backends import open_choice

        manifest = bundle.manifest
        windower = Windower(bundle.tokenizer_json, max_length=manifest.max_length, doc_stride=manifest.doc_stride)
        _LOGGER.info("backend %s", choice)
        return cls(
            open_choice(bundle, choice, options),
            windower,
            rules=rules,
            pipeline_rules=pipeline_rules,
            batching=choice.batching,
            truncate_question=truncate_question,
            backend=f"{choice.backend} {choice.precision}",
        )

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
        """The best `count` answers with different texts, best first (fewer when the context has fewer).

        Raises InputError as `answer` does.
        """
        if count < 1:
            raise InputError(f"count must be at least 1, it is {count}")
        rules = self._rules(compat).for_best(count)
        [pool] = filter(None, self._pools([(question, context)]))
        [answers] = ranked(pool, self._run(pool), rules)
        if isinstance(answers, InputError):
            raise answers
        return answers[:count]

    @overload
    def answer_many(
        self, pairs: Iterable[Given], *, progress: bool = False, compat: Compat | None = None
    ) -> Iterator[Answer]: ...

    @overload
    def answer_many(
        self,
        pairs: Iterable[Given],
        *,
        progress: bool = False,
        compat: Compat | None = None,
        on_error: Literal["yield"],
    ) -> Iterator[Answer | InputError]: ...

    def answer_many(
        self,
        pairs: Iterable[Given],
        *,
        progress: bool = False,
        compat: Compat | None = None,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Answer | InputError]:
        """The best answer to each (question, context), in input order; memory does not grow with the stream.

        A pair may be a mapping with both. The stream is read up to 2,112 questions ahead, fewer when contexts are long;
        a PAUSE in it asks for all answers so far before more is read. `progress` shows a bar on stderr.
        A pair that cannot be used raises InputError; with `on_error="yield"` the error comes in its place and the rest
        goes on (an InputError among the pairs is passed through). What the stream itself raises comes after the answers
        to all before it.
        """
        for answers in self._with_progress(self._stream(pairs, self._rules(compat)), pairs, progress):
            if isinstance(answers, InputError):
                if on_error == "raise":
                    raise answers
                yield answers
            else:
                yield answers[0]

    def predict(self, dataset: SquadDataset, *, progress: bool = False) -> dict[str, str]:
        """The answer text of every question of a SQuAD file, by id; "" where SQuAD 2 has no answer.

        Raises InputError that names the question as `answer` does.
        """
        return self.predict_with_null_odds(dataset, progress=progress).texts

    def predict_with_null_odds(
        self, dataset: SquadDataset, *, progress: bool = False, on_error: Literal["raise", "record"] = "raise"
    ) -> SquadPredictions:
        """Like `predict`, with what the official script takes as --na-prob-file to find the best threshold.

        For SQuAD 2 the null threshold of `rules` counts, 0 where they have none. With `on_error="record"`, a question
        that cannot be answered is kept among the failures, and the others are answered.
        """
        rules = self.rules.for_dataset(allows_no_answer=dataset.allows_no_answer)
        pairs = [(question.question, question.context) for question in dataset.questions]
        predictions = SquadPredictions()
        found = self._with_progress(self._stream(pairs, rules), pairs, progress)
        for question, answers in zip(dataset.questions, found, strict=True):
            if isinstance(answers, InputError):
                if on_error == "raise":
                    raise InputError(f"question {question.id!r}: {answers}") from answers
                predictions.failures[question.id] = answers
                continue
            predictions.texts[question.id] = answers[0].text
            if dataset.allows_no_answer:
                predictions.null_odds[question.id] = null_odds(answers)
        return predictions

    def _rules(self, compat: Compat | None) -> Rules[Any]:
        if compat not in (None, "transformers"):
            raise InputError(f"unknown compat mode {compat!r}; known: transformers")
        return self.rules if compat is None else self.pipeline_rules

    def _with_progress(
        self, found: Iterator[list[Answer] | InputError], pairs: Iterable[Given], progress: bool
    ) -> Iterator[list[Answer] | InputError]:
        if not progress:
            yield from found
            return
        total = len(pairs) if isinstance(pairs, Sequence) else None
        with progress_bar("questions", total) as advance:
            for answers in found:
                yield answers
                advance(1)

    def _stream(self, pairs: Iterable[Given], rules: Rules[Any]) -> Iterator[list[Answer] | InputError]:
        return answer_stream(self._pools(pairs), self._run, rules)

    def _pools(self, pairs: Iterable[Given]) -> Iterator[Pool | None]:
        return pools_of(pairs, self.windower, truncate_question=self.truncate_question)

    def _run(self, pool: Pool) -> Iterator[tuple[Batch, Logits]]:
        return run_pool(pool, self.session, self.batching, self.windower.pad_id, backend=self.backend)
