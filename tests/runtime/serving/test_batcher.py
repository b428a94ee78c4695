"""Whatever is asked at once, cancelled, late or too much: every answer is the library's, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

import numpy as np
import pytest

from densepack_runtime.errors import BackendError, DeadlineError, InputError, QueueFullError, UnavailableError
from densepack_runtime.question_answering.answers import Rules, SpanRules
from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.batcher import Answered, Asked, Batcher
from densepack_runtime.serving.grid import Grid
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits

LONGEST = 48
WAIT_S = 30.0
WORDS = ("river", "bridge", "Anna", "Berg", "1901", "stone", "über", "the", "of", "mill", "harbour", "x")


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json, max_length=LONGEST, doc_stride=12)


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def short(number: int, rules: Rules[Any] | None = None) -> Asked:
    return Asked(f"Who built {number}?", f"Anna Berg built {number} in 1901.", rules or SpanRules())


def document(windows: int) -> Asked:
    return Asked("Who built it?", " ".join(str(number % 90) for number in range(27 * windows)), SpanRules())


class Gated:
    """A session of which every batch waits until it may run, and a clock that each of them moves by a second."""

    def __init__(self, windower: Windower, answer: Callable[[Batch], Logits] = made_up_logits, **options: Any) -> None:
        self.now, self._answer = 0.0, answer
        self._allowed = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        self.session = FakeSession(self._run)
        answerer = QuestionAnswerer(self.session, windower, backend="fake fp32")
        grid = Grid.of(Batching(few_shapes=options.pop("few_shapes", False)), LONGEST)
        self.batcher = Batcher(answerer, grid, clock=lambda: self.now, **options)

    def _run(self, batch: Batch) -> Logits:
        self.reached.release()
        assert self._allowed.acquire(timeout=WAIT_S)
        self.now += 1
        return self._answer(batch)

    def allow(self, batches: int = 10_000) -> None:
        self._allowed.release(batches)

    def ask(self, *asked: Asked, timeout_s: float = 1e9) -> list[Future[Answered]]:
        """Ask and wait until all of it stands in line."""
        futures = self.batcher.ask(asked, timeout_s)
        self.batcher._tokenising.submit(int).result(WAIT_S)
        self.batcher._tokenising.submit(int).result(WAIT_S)
        while any(not q.windows and not q.future.done() for q in list(self.batcher._questions.values())):
            threading.Event().wait(0.001)
        return futures


@pytest.fixture
def gated(windower: Windower) -> Iterator[Callable[..., Gated]]:
    made: list[Gated] = []

    def make(**options: Any) -> Gated:
        made.append(Gated(windower, **options))
        return made[-1]

    yield make
    for one in made:
        one.allow()
        one.batcher.close()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("few_shapes", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_is_the_librarys(windower: Windower, seed: int, few_shapes: bool, lanes: int) -> None:
    """Four callers ask at once: short and long ones, with different rules, bad ones among them, some cancelled."""
    chance = random.Random(seed)
    rules: tuple[Rules[Any], ...] = (
        SpanRules(),
        SpanRules(null_threshold=0.0),
        SpanRules(5, 3),
        PipelineRules(top_k=3),
    )
    questions = [
        Asked(
            text(chance, chance.choice((1, 3, 6, 6, 60))),
            text(chance, chance.choice((0, 2, 20, 20, 40, 400))),
            chance.choice(rules),
            chance.choice((1, 3)),
        )
        for _ in range(120)
    ]
    got: list[Any] = [None] * len(questions)
    grid = Grid.of(Batching(few_shapes=few_shapes), LONGEST)
    with Batcher(QuestionAnswerer(FakeSession(), windower), grid, lanes=lanes) as batcher:

        def ask(first: int) -> None:
            for start in range(first, len(questions), 12):
                futures = batcher.ask(questions[start : start + 3], WAIT_S)
                cancelled = [place for place in range(len(futures)) if (start + place) % 10 == 7]
                for place in cancelled:
                    futures[place].cancel()
                for place, future in enumerate(futures):
                    if not future.cancelled():
                        got[start + place] = future.exception(WAIT_S) or future.result().answers

        callers = [threading.Thread(target=ask, args=(3 * caller,)) for caller in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(WAIT_S)
        assert (batcher.tokens, batcher.questions) == (0, 0)
    for asked, found in zip(questions, got, strict=True):
        if found is not None:
            assert found == expected(windower, asked) or str(found) == str(expected(windower, asked))
    assert sum(isinstance(found, list) for found in got) > 60
    assert sum(isinstance(found, InputError) for found in got) > 10


def expected(windower: Windower, asked: Asked) -> Any:
    compat = isinstance(asked.rules, PipelineRules)
    given = {"pipeline_rules": asked.rules} if compat else {"rules": asked.rules}
    answerer = QuestionAnswerer(FakeSession(), windower, **given)  # type: ignore[arg-type]
    count = 3 if compat else asked.count
    try:
        return answerer.best_answers(
            question=asked.question, context=asked.context, count=count, compat="transformers" if compat else None
        )[: asked.count]
    except InputError as error:
        return error


def test_each_lane_runs_a_batch_while_others_run_theirs(gated: Callable[..., Gated]) -> None:
    one = gated(lanes=2)
    futures = [*one.ask(short(0)), *one.ask(short(1)), *one.ask(short(2))]
    assert one.reached.acquire(timeout=WAIT_S)
    assert one.reached.acquire(timeout=WAIT_S)
    assert not one.reached.acquire(timeout=0.05)  # the third one waits
    assert len(one.session.batches) == 2
    one.allow()
    assert [future.result(WAIT_S).answers[0].text for future in futures]
    assert one.batcher.tokens == 0


def test_what_waits_takes_half_as_long_with_two_lanes(gated: Callable[..., Gated]) -> None:
    wait_s = []
    for lanes in (1, 2):
        one = gated(lanes=lanes)
        for number in range(lanes):
            one.ask(short(number))
            one.reached.acquire()
        one.ask(document(9))
        one.batcher._rate = 10.0  # tokens a second of each
        wait_s.append(one.batcher.wait_s)
    assert wait_s[0] == 2 * wait_s[1] > 0


def test_a_document_shares_the_model_with_what_comes_after_it(gated: Callable[..., Gated]) -> None:
    one = gated()
    [whole] = one.ask(document(400))
    one.reached.acquire()  # its first batch is under way
    late = one.ask(*map(short, range(3)))
    one.allow(3)
    for future in late:
        future.result(WAIT_S)
    assert not whole.done()
    assert one.now <= 3
    one.allow()
    assert whole.result(WAIT_S).answers


def test_no_window_waits_for_more_batches_than_windows_stood_before_it(gated: Callable[..., Gated]) -> None:
    """A long question among ever new short ones: the first batch after it came to the head of the line has it."""
    one = gated()
    one.ask(*map(short, range(8)))
    one.reached.acquire()
    [odd] = one.ask(Asked("Who?", "river " * 40, SpanRules()))
    both = threading.Barrier(2)  # of the threads that tokenise: when they meet here, it is in line
    for met in [one.batcher._tokenising.submit(both.wait, WAIT_S) for _ in range(both.parties)]:
        met.result(WAIT_S)
    for number in count(100):
        one.ask(*map(short, range(number * 10, number * 10 + 10)))  # more than a batch takes
        one.allow(1)
        one.reached.acquire(timeout=WAIT_S)
        one.batcher._ranking.submit(int).result(WAIT_S)
        if odd.done() or number == 120:
            break
    assert odd.done()
    assert one.now <= 3


def test_a_document_ends_while_short_ones_never_stop(gated: Callable[..., Gated]) -> None:
    """Its k-th window stands before the question that came k questions later."""
    one = gated()
    [whole] = one.ask(document(60))
    numbers = count()
    for _ in range(400):
        one.ask(short(next(numbers)), short(next(numbers)))
        one.allow(1)
        one.reached.acquire(timeout=WAIT_S)
        if whole.done():
            break
    assert whole.done()


def test_what_comes_behind_a_long_document_is_not_tokenised_with_it(gated: Callable[..., Gated]) -> None:
    """Short ones are, and the questions of one caller, who may ask all of them of one text."""
    one, together = gated(), list[int]()
    tokenise = one.batcher._tokenise

    def seen(questions: Sequence[Any], start: float) -> None:
        together.append(len(questions))
        tokenise(questions, start)

    one.batcher._tokenise = seen  # type: ignore[method-assign]
    busy = threading.Event()
    waiting = [one.batcher._tokenising.submit(busy.wait, WAIT_S) for _ in range(2)]
    long = Asked("Who?", "river " * 40_000, SpanRules())
    callers = [[short(0)], [short(1), short(2)], [long] * 3, [short(3)], [short(4)]]
    futures = [future for asked in callers for future in one.batcher.ask(asked, 1e9)]
    busy.set()
    for thread in waiting:
        thread.result(WAIT_S)
    for _ in range(2):
        one.batcher._tokenising.submit(int).result(WAIT_S)
    one.allow(1_000_000)
    for future in futures:
        future.result(WAIT_S)
    assert sorted(together) == [2, 6]


def test_one_who_leaves_is_not_computed_and_does_not_count(gated: Callable[..., Gated]) -> None:
    one = gated()
    [first] = one.ask(short(1))
    one.reached.acquire()
    gone, last = one.ask(document(20), short(2))
    weight = one.batcher.tokens
    assert gone.cancel()
    assert one.batcher.tokens < weight / 10
    one.allow()
    assert first.result(WAIT_S).answers
    assert last.result(WAIT_S).answers
    assert sum(batch.shape[0] for batch in one.session.batches) == 2
    assert one.batcher.tokens == 0


def test_one_who_is_late_is_not_computed(gated: Callable[..., Gated]) -> None:
    one = gated()
    one.ask(short(1))
    one.reached.acquire()
    late, in_time = one.ask(short(2), timeout_s=0.5) + one.ask(short(3), timeout_s=50)
    one.allow()
    with pytest.raises(DeadlineError, match="not there in time"):
        late.result(WAIT_S)
    assert in_time.result(WAIT_S).seconds.queue == 1.0
    assert sum(batch.shape[0] for batch in one.session.batches) == 2


def test_a_full_queue_takes_all_or_nothing_and_says_when_to_come_again(gated: Callable[..., Gated]) -> None:
    one = gated(most_tokens=100)
    one.allow(1)
    one.ask(short(0))[0].result(WAIT_S)
    one.reached.acquire()
    rate = sum(window.length for window in one.session.batches[0].windows) / 1.0
    one.ask(short(1))
    one.reached.acquire()
    [large] = one.ask(document(30))  # longer than the queue, which was empty
    with pytest.raises(QueueFullError, match="tokens wait already") as refused:
        one.ask(short(2), short(3))
    assert refused.value.wait_s == pytest.approx(one.batcher.tokens / rate)
    assert one.batcher.questions == 2
    one.allow()
    assert large.result(WAIT_S).answers


def test_a_batch_that_fails_is_an_error_of_its_questions_alone(gated: Callable[..., Gated]) -> None:
    def answer(batch: Batch) -> Logits:
        found = made_up_logits(batch)
        if batch.shape[1] > 30:
            raise BackendError("out of memory")
        if batch.shape[0] == 2:
            found.start[0, 0] = np.nan
        return found

    one = gated(answer=answer)
    one.allow()
    [broken] = one.ask(document(3))
    assert isinstance(broken.exception(WAIT_S), BackendError)
    for future in one.ask(short(1)):
        assert future.result(WAIT_S).answers
    assert one.batcher.tokens == 0


def test_what_is_no_number_is_refused_with_the_backends_name(gated: Callable[..., Gated]) -> None:
    one = gated(
        answer=lambda batch: Logits(np.full(batch.shape, np.nan, np.float32), np.zeros(batch.shape, np.float32))
    )
    one.allow()
    [broken] = one.ask(short(1))
    with pytest.raises(BackendError, match="fake fp32 gave no finite logits"):
        broken.result(WAIT_S)


def test_closing_answers_what_is_under_way_and_tells_the_rest(gated: Callable[..., Gated]) -> None:
    one = gated()
    [first] = one.ask(short(1))
    one.reached.acquire()
    waiting = one.ask(document(50), short(2))
    closing = threading.Thread(target=one.batcher.close)
    closing.start()
    while not one.batcher._closed:
        threading.Event().wait(0.001)
    with pytest.raises(UnavailableError, match="this server ends"):
        one.batcher.ask([short(3)], WAIT_S)
    one.allow()
    closing.join(WAIT_S)
    assert first.result(0).answers
    for future in waiting:
        assert isinstance(future.exception(0), UnavailableError)


def test_the_seconds_of_a_question_are_told_step_by_step(gated: Callable[..., Gated]) -> None:
    one = gated()
    one.allow()
    [long] = one.ask(document(2))
    seconds = long.result(WAIT_S).seconds
    assert (seconds.tokenise, seconds.rank) == (0.0, 0.0)
    assert seconds.model >= 1.0
