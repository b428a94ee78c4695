"""Questions of many callers in batches: windows at once, and whenever the model is free it takes what waits.

    with Batcher(answerer, Grid.of(answerer.batching, longest=384)) as batcher:
        [future] = batcher.ask([Asked("Who?", "It was her.", SpanRules())], timeout_s=30)
        future.result().answers

No timer: a batch never waits for more. `line.py` says which windows it takes.

Threads tokenise (two), run the model (one for each lane) and rank (one). A caller that cancels its future leaves the
line.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Condition, Thread
from typing import Any, Self

import numpy as np

from densepack_runtime.errors import DeadlineError, InputError, QueueFullError, UnavailableError
from densepack_runtime.question_answering.answers import Answer, Rules
from densepack_runtime.question_answering.pools import pools_of, refuse_non_finite
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.grid import Grid
from densepack_runtime.serving.line import Line
from densepack_runtime.sessions.batching import pad_windows
from densepack_runtime.sessions.session import Batch, Logits, Window

# Tokens of the windows that wait: about ten seconds of work for two cores.
MOST_TOKENS = 200_000
# What a text counts for until it is tokenised: English has four to five characters a token.
_CHARACTERS_A_TOKEN = 4
# What is tokenised together, in such tokens: some forty paragraphs, and not what comes behind a long document.
_TOKENS_TOGETHER = 8_000
# How much the latest batch says about how fast the model is.
_LATEST = 0.1


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, the rules for its answers, and how many of them are wanted."""

    question: str
    context: str
    rules: Rules[Any]
    count: int = 1


@dataclass(slots=True)
class Seconds:
    """Where the time of a question went. `queue` ends when its last window is taken."""

    tokenise: float = 0.0
    queue: float = 0.0
    model: float = 0.0
    rank: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to one question, best first."""

    answers: list[Answer]
    seconds: Seconds


@dataclass(eq=False, slots=True)
class _Question:
    """A question from when it is asked until it is answered."""

    number: int
    asked: Asked
    deadline: float
    tokens: int = 0
    lined_up: float = 0.0
    windows: int = 0
    found: list[Any] = field(default_factory=list)  # what its rules read of each window
    future: Future[Answered] = field(default_factory=Future)
    seconds: Seconds = field(default_factory=Seconds)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is run next: windows of these questions, padded to `length`."""

    questions: list[_Question]
    windows: list[Window]
    length: int


class Batcher:
    """Answers as `answerer` does, whose session it uses alone; `close` it before the answerer.

    So many batches are run at once as there are `lanes`, which the session was opened for. `most_tokens` bounds what
    waits. `ran` hears of every batch with the seconds that it took, in the thread of its lane; `waits` by how many
    tokens and questions what waits has changed.
    """

    def __init__(
        self,
        answerer: QuestionAnswerer,
        grid: Grid,
        *,
        lanes: int = 1,
        most_tokens: int = MOST_TOKENS,
        clock: Callable[[], float] = time.monotonic,
        ran: Callable[[Batch, float], None] = lambda *_: None,
        waits: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self.tokens = 0  # that wait
        self._answerer, self._most_tokens, self._clock = answerer, most_tokens, clock
        self._line: Line[Window] = Line(grid)
        self._ran, self._waits = ran, waits
        self._turn = Condition()  # its lock lets a thread in twice: futures call back from where they are answered
        self._questions: dict[int, _Question] = {}  # not answered yet, in the order they came
        self._asked: deque[list[_Question]] = deque()  # by callers, not tokenised yet
        self._numbers = count()
        self._rate = 0.0  # tokens a second of a lane
        self._closed = False
        self._tokenising = ThreadPoolExecutor(2, "densepack-tokenise")
        self._ranking = ThreadPoolExecutor(1, "densepack-rank")
        self._lanes = [Thread(target=self._serve, name=f"densepack-model-{lane}", daemon=True) for lane in range(lanes)]
        for lane in self._lanes:
            lane.start()

    def ask(self, asked: Sequence[Asked], timeout_s: float) -> list[Future[Answered]]:
        """The answers to come, each after at most `timeout_s`; what cannot be answered has an error of ours.

        Takes all of the questions or none. What is longer than the queue is taken when nothing else waits. Raises
        QueueFullError, UnavailableError after `close`.
        """
        tokens = [1 + (len(one.question) + len(one.context)) // _CHARACTERS_A_TOKEN for one in asked]
        with self._turn:
            if self._closed:
                raise UnavailableError("this server ends: ask another one")
            if self.tokens and self.tokens + sum(tokens) > self._most_tokens:
                raise QueueFullError(f"{self.tokens:,} tokens wait already: ask again later", self.wait_s)
            deadline = self._clock() + timeout_s
            questions = [self._enter(one, deadline, weight) for one, weight in zip(asked, tokens, strict=True)]
            self._asked.append(questions)
            self._tokenising.submit(self._tokenise_all)
        return [question.future for question in questions]

    def regrid(self, cost: Callable[[Grid], Grid]) -> None:
        """Choose batches by another grid of the same shapes from now on."""
        grid = cost(self._line.grid)
        with self._turn:
            self._line.grid = grid

    @property
    def wait_s(self) -> float:
        """How long what waits will take, by what the latest batches took."""
        return self.tokens / (self._rate * len(self._lanes)) if self._rate else 1.0

    @property
    def questions(self) -> int:
        """How many are not answered yet."""
        return len(self._questions)

    def drain(self) -> None:
        """Return when all that was asked is answered, where nobody asks any more."""
        with self._turn:
            self._turn.wait_for(lambda: not self._questions)

    def close(self) -> None:
        """End after the batches that are run; what is not answered then gets an UnavailableError."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._tokenising.shutdown()
        for lane in self._lanes:
            lane.join()
        self._ranking.shutdown()
        for question in list(self._questions.values()):
            self._finish(question, UnavailableError("this server ended before the answer was there"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- in and out of the line --------------------------------------------------------------------------------------

    def _enter(self, asked: Asked, deadline: float, tokens: int) -> _Question:
        number = next(self._numbers)
        question = self._questions[number] = _Question(number, asked, deadline)
        self._waits(0, 1)
        self._weigh(question, tokens)
        question.future.add_done_callback(lambda _: self._leave(question))
        return question

    def _weigh(self, question: _Question, tokens: int) -> None:
        change = tokens - question.tokens
        self.tokens += change
        question.tokens = tokens
        self._waits(change, 0)

    def _leave(self, question: _Question) -> None:
        with self._turn:
            self._weigh(question, 0)
            self._line.leave(question.number)
            del self._questions[question.number]
            self._waits(0, -1)
            if not self._questions:
                self._turn.notify_all()

    def _finish(self, question: _Question, outcome: Answered | Exception) -> None:
        with self._turn:
            if question.future.done() or not question.future.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            if isinstance(outcome, Exception):
                question.future.set_exception(outcome)
            else:
                question.future.set_result(outcome)

    @contextmanager
    def _answering(self, questions: Sequence[_Question]) -> Iterator[None]:
        """Whatever fails in the block is what these questions get: nobody waits for an answer that never comes."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            for question in questions:
                self._finish(question, error)

    # --- tokenise ----------------------------------------------------------------------------------------------------

    def _tokenise_all(self) -> None:
        """Whatever has come until it is done; together it takes less than one by one."""
        while asked := self._next_asked():
            start = self._clock()
            wanted = [question for question in asked if not question.future.done()]
            with self._answering(wanted):
                self._tokenise(wanted, start)

    def _next_asked(self) -> list[_Question]:
        """Of the callers that wait, the first ones; the questions of one may share their context, and stay together."""
        found, tokens = list[_Question](), 0
        with self._turn:
            while self._asked and tokens < _TOKENS_TOGETHER:
                found += (asked := self._asked.popleft())
                tokens += sum(question.tokens for question in asked)
        return found

    def _tokenise(self, questions: Sequence[_Question], start: float) -> None:
        pairs = [(question.asked.question, question.asked.context) for question in questions]
        pools = pools_of(pairs, self._answerer.windower, truncate_question=self._answerer.truncate_question)
        results = [result for pool in pools if pool is not None for result in pool.results]
        for question, result in zip(questions, results, strict=True):
            question.seconds.tokenise = self._clock() - start
            if isinstance(result, InputError):
                self._finish(question, result)
            else:
                self._line_up(question, result)

    def _line_up(self, question: _Question, windows: Sequence[Window]) -> None:
        with self._turn:
            if question.future.done():
                return
            question.windows = len(windows)
            question.lined_up = self._clock()
            self._line.enter(question.number, [replace(window, example=question.number) for window in windows])
            self._weigh(question, sum(window.length for window in windows))
            self._turn.notify_all()

    # --- the model ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            with self._answering(taken.questions):
                batch = pad_windows(taken.windows, pad_id=self._answerer.windower.pad_id, length=taken.length)
                start = self._clock()
                logits = self._answerer.session.run(batch)
                seconds = self._clock() - start
                self._learn(batch, seconds)
                refuse_non_finite(batch, logits, self._answerer.backend or type(self._answerer.session).__name__)
                self._ranking.submit(self._rank, taken.questions, batch, logits, seconds)

    def _learn(self, batch: Batch, seconds: float) -> None:
        rate = sum(window.length for window in batch.windows) / max(seconds, 1e-6)
        with self._turn:
            self._rate = rate if not self._rate else (1 - _LATEST) * self._rate + _LATEST * rate
        self._ran(batch, seconds)

    def _next(self) -> _Taken | None:
        """What is run next, as soon as there is something; None in the end."""
        with self._turn:
            while not self._closed:
                self._refuse_late()
                if self._line:
                    return self._take()
                self._turn.wait()
        return None

    def _refuse_late(self) -> None:
        now = self._clock()
        for question in [self._questions[number] for number in self._line]:
            if question.deadline <= now:
                self._finish(question, DeadlineError("the answer was not there in time: ask again, or for less"))

    def _take(self) -> _Taken:
        found, length = self._line.take()
        now = self._clock()
        questions = [self._questions[number] for number, _ in found]
        windows = [window for _, window in found]
        for question, window in zip(questions, windows, strict=True):
            self._weigh(question, question.tokens - window.length)
            question.seconds.queue = now - question.lined_up
        return _Taken(questions, windows, length)

    # --- rank --------------------------------------------------------------------------------------------------------

    def _rank(self, questions: Sequence[_Question], batch: Batch, logits: Logits, seconds: float) -> None:
        start = self._clock()
        rows_of: dict[Rules[Any], list[int]] = defaultdict(list)
        for row, question in enumerate(questions):
            rows_of[question.asked.rules].append(row)
        for rules, rows in rows_of.items():
            ours = [questions[row] for row in rows]
            with self._answering(ours):
                for question, found in zip(ours, rules.read(*_rows(batch, logits, rows)), strict=True):
                    question.found.append(found)
        for question in dict.fromkeys(questions):
            question.seconds.model += seconds
            with self._answering([question]):
                if len(question.found) == question.windows:
                    self._answer(question, start)

    def _answer(self, question: _Question, start: float) -> None:
        answers = question.asked.rules.answers(question.asked.context, question.found)
        question.seconds.rank = self._clock() - start
        self._finish(question, Answered(answers[: question.asked.count], question.seconds))


def _rows(batch: Batch, logits: Logits, rows: Sequence[int]) -> tuple[Batch, Logits]:
    """Some rows alone, as a batch of the same length."""
    if len(rows) == len(batch.windows):
        return batch, logits
    part = np.array(rows)
    inputs, mask, types = (array[part] for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids))
    windows = tuple(batch.windows[row] for row in rows)
    return Batch(inputs, mask, types, windows), Logits(logits.start[part], logits.end[part])
