"""A stream of questions is answered in order, in bounded memory, and as each question alone would be."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import densepack_runtime.backends as backends
import densepack_runtime.bundle as bundle_module
from densepack_runtime.backends import Choice
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.question_answering import pools, question_answerer
from densepack_runtime.question_answering.answers import Answer, SpanRules
from densepack_runtime.question_answering.pairs import PAUSE, Given
from densepack_runtime.question_answering.pipeline_compat import PipelineRules, pipeline_answers
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import (
    SquadDataset,
    SquadQuestion,
    read_squad,
    sample_squad_path,
    score_predictions,
)
from densepack_runtime.question_answering.windows import PAIRS_AT_ONCE, Windower
from densepack_runtime.sessions.batching import FEW_LENGTHS, GPU_TOKEN_BUDGET, Batching, pad_windows
from densepack_runtime.sessions.fake_session import FakeSession as PublicFakeSession
from densepack_runtime.sessions.fake_session import made_up_logits
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, ComputePrecision, Logits, SessionBase


class FakeSession(SessionBase):
    """Logits that depend on the tokens of a row alone, so that batching cannot change an answer."""

    def __init__(self, height: float = 8.0) -> None:
        table = np.random.default_rng(0).normal(0, 1, (2, 40_000)).astype(np.float32)
        self.start, self.end = height * table[0], height * table[1]
        self.shapes: list[tuple[int, int]] = []
        self.closed = False

    def run(self, batch: Batch) -> Logits:
        if self.closed:
            raise BackendError("the session is closed")
        self.shapes.append(batch.shape)
        # A row is told from another of the same words by its first tokens, those of the question.
        salt = batch.input_ids[:, 1:2] + batch.input_ids[:, 2:3]
        places = (batch.input_ids + salt) % len(self.start)
        return Logits(self.start[places], self.end[places])

    def close(self) -> None:
        self.closed = True


class ReadAheadSession(FakeSession):
    """Takes three batches before it gives the first result, as a backend that overlaps copies does."""

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        source = iter(batches)
        while taken := list(itertools.islice(source, 3)):
            yield from map(self.run, taken)


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json)


@pytest.fixture
def answerer(windower: Windower) -> QuestionAnswerer:
    return QuestionAnswerer(FakeSession(), windower)


@pytest.fixture(scope="module")
def sample() -> SquadDataset:
    return read_squad(sample_squad_path())


def pairs_of(dataset: SquadDataset) -> list[tuple[str, str]]:
    return [(question.question, question.context) for question in dataset.questions]


def numbered(count: int | None = None) -> Iterator[tuple[str, str]]:
    for number in itertools.count() if count is None else range(count):
        yield ("Which number?", f"This is number {number} of them. " * (1 + number % 5))


def same(one: Answer, other: Answer) -> bool:
    return (one.text, one.start, one.end) == (other.text, other.start, other.end) and one.score == pytest.approx(
        other.score
    )


@pytest.mark.parametrize("session", [FakeSession, ReadAheadSession])
@pytest.mark.parametrize("budget", [384, 4096])
def test_a_stream_is_answered_like_one_question_after_the_other(
    windower: Windower, sample: SquadDataset, session: Callable[[], FakeSession], budget: int
) -> None:
    pairs = pairs_of(sample)
    answerer = QuestionAnswerer(session(), windower, batching=Batching(budget))
    alone = [answerer.answer(question=question, context=context) for question, context in pairs]
    together = list(answerer.answer_many(iter(pairs)))
    assert len({(answer.text, answer.start) for answer in alone}) > 50, "answers that are all alike show no order"
    assert all(map(same, alone, together))
    assert all(a.text == context[a.start : a.end] for a, (_, context) in zip(together, pairs, strict=True))


def test_small_pools_change_nothing(windower: Windower, sample: SquadDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of(sample)
    expected = list(QuestionAnswerer(FakeSession(), windower).answer_many(pairs))
    for questions, windows in ((7, 4096), (1024, 3)):
        monkeypatch.setattr(pools, "POOL_QUESTIONS", questions)
        monkeypatch.setattr(pools, "POOL_WINDOWS", windows)
        assert all(map(same, expected, QuestionAnswerer(FakeSession(), windower).answer_many(pairs)))


def test_batches_keep_to_the_token_budget(windower: Windower, sample: SquadDataset) -> None:
    session = FakeSession()
    list(QuestionAnswerer(session, windower, batching=Batching(800)).answer_many(pairs_of(sample)))
    assert max(rows * length for rows, length in session.shapes) <= 800
    assert max(rows for rows, _ in session.shapes) > 1


def test_batches_have_few_lengths_where_they_are_asked_for(windower: Windower, sample: SquadDataset) -> None:
    session = FakeSession()
    answerer = QuestionAnswerer(session, windower, batching=Batching(length_multiple=32))
    expected = list(QuestionAnswerer(FakeSession(), windower).answer_many(pairs_of(sample)))
    assert all(map(same, expected, answerer.answer_many(pairs_of(sample))))
    lengths = {length for _, length in session.shapes}
    assert len(lengths) > 2
    assert all(length % 32 == 0 or length == max(lengths) for length in lengths)


def test_an_endless_stream_is_read_a_bounded_way_ahead(
    answerer: QuestionAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "POOL_QUESTIONS", 100)
    read = furthest = 0

    def counted() -> Iterator[tuple[str, str]]:
        nonlocal read
        for pair in numbered():
            read += 1
            yield pair

    for given, _ in enumerate(itertools.islice(answerer.answer_many(counted()), 1000), start=1):
        furthest = max(furthest, read - given)
    assert furthest <= 2 * 100 + PAIRS_AT_ONCE


def test_the_next_pool_is_tokenised_while_the_model_runs(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model waits in its first batch until the stream has been read beyond the first pool."""
    monkeypatch.setattr(pools, "POOL_QUESTIONS", 64)
    beyond = threading.Event()

    class Waiting(FakeSession):
        def run(self, batch: Batch) -> Logits:
            assert beyond.wait(20), "nobody read on"
            return super().run(batch)

    def pairs() -> Iterator[tuple[str, str]]:
        for number, pair in enumerate(numbered(200)):
            if number >= 64:
                beyond.set()
            yield pair

    answers = list(QuestionAnswerer(Waiting(), windower).answer_many(pairs()))
    assert all(map(same, answers, QuestionAnswerer(FakeSession(), windower).answer_many(numbered(200))))


def test_a_stream_that_nobody_reads_on_stops_the_model(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "POOL_QUESTIONS", 64)
    session = FakeSession()
    answers = QuestionAnswerer(session, windower, batching=Batching(64)).answer_many(numbered())
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    ran = len(session.shapes)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("densepack-model")]
    assert len(session.shapes) == ran <= 128


def test_an_error_of_the_model_is_raised_to_the_reader(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "POOL_QUESTIONS", 64)

    class Breaking(FakeSession):
        def run(self, batch: Batch) -> Logits:
            if len(self.shapes) == 3:
                raise BackendError("the GPU fell off")
            return super().run(batch)

    answers = QuestionAnswerer(Breaking(), windower, batching=Batching(512)).answer_many(numbered(300))
    with pytest.raises(BackendError, match="the GPU fell off"):
        list(answers)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("densepack-model")]


def test_long_contexts_end_a_pool_early(answerer: QuestionAnswerer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows bound the memory, not questions alone: here every context makes ten."""
    monkeypatch.setattr(pools, "POOL_WINDOWS", 25)
    sizes: list[int] = []
    run = answerer._run

    def recorded(pool: pools.Pool) -> Iterator[tuple[Batch, Logits]]:
        sizes.append(pool.window_count)
        return run(pool)

    monkeypatch.setattr(answerer, "_run", recorded)
    context = "word another " * 1220
    assert len(list(answerer.answer_many([("Who?", context)] * 7))) == 7
    assert sizes == [30, 30, 10]


def test_a_context_of_100000_words_is_answered(answerer: QuestionAnswerer) -> None:
    context = "quick brown fox jumps over the lazy dog and then some " * 9_090 + "Zanzibar"
    found = answerer.answer(question="Where does it jump?", context=context)
    assert found.text == context[found.start : found.end]


def test_errors_are_raised_in_their_place(answerer: QuestionAnswerer) -> None:
    found = answerer.answer_many([("Who?", "A dog."), ("", "A dog."), ("Who?", "A cat.")])
    assert next(found).text
    with pytest.raises(InputError, match="the question is empty"):
        next(found)


def test_errors_can_come_in_their_place(answerer: QuestionAnswerer) -> None:
    broken = InputError("line 3 is not JSON")
    pairs: list[tuple[str, str] | InputError] = [
        ("Who?", "A dog."),
        ("Who?", " "),
        broken,
        ("Who?", "\ud800"),
        ("Who?", "A cat."),
    ]
    found = list(answerer.answer_many(pairs, on_error="yield"))
    assert [isinstance(answer, InputError) for answer in found] == [False, True, True, True, False]
    assert found[2] is broken
    assert isinstance(found[4], Answer)
    assert same(found[4], answerer.answer(question="Who?", context="A cat."))


@pytest.mark.parametrize("compat", [None, "transformers"])
def test_what_is_no_pair_is_an_error_in_its_place(answerer: QuestionAnswerer, compat: Any) -> None:
    pair = ("Who?", "A dog.")
    given: list[Any] = [
        pair,
        None,
        3,
        "ab",
        ("Who?",),
        {"question": "Who?"},
        b"ab",
        {"question": "Who?", "context": "A dog."},
    ]
    found = list(answerer.answer_many(given, compat=compat, on_error="yield"))
    assert [isinstance(answer, InputError) for answer in found] == [False, *[True] * 6, False]
    assert found[0] == found[-1] == answerer.answer(question="Who?", context="A dog.", compat=compat)
    answers = answerer.answer_many(given, compat=compat)
    assert next(answers) == found[0]
    with pytest.raises(InputError, match="must be a pair of strings, this is None"):
        next(answers)


@pytest.mark.parametrize("count", [0, 3, PAIRS_AT_ONCE, 2100])
def test_the_answers_come_before_what_the_producer_raises(answerer: QuestionAnswerer, count: int) -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        yield from numbered(count)
        raise KeyError("gone")

    answers = answerer.answer_many(pairs())
    found = list(itertools.islice(answers, count))
    assert found == list(answerer.answer_many(numbered(count)))
    with pytest.raises(KeyError, match="gone"):
        next(answers)


def test_at_a_pause_all_answers_come_before_more_is_read(answerer: QuestionAnswerer) -> None:
    wanted = [answerer.answer(question=question, context=context) for question, context in numbered(7)]
    found: list[Answer] = []

    def pairs() -> Iterator[Given]:
        yield PAUSE
        for number, pair in enumerate(numbered(7), start=1):
            yield pair
            if number in (1, 3):
                yield PAUSE
                yield PAUSE
                assert len(found) == number

    for answer in answerer.answer_many(pairs()):
        found.append(answer)
    assert all(map(same, found, wanted))
    assert len(found) == 7


def test_nothing_in_gives_nothing_out(answerer: QuestionAnswerer) -> None:
    assert list(answerer.answer_many([])) == []


def test_an_over_long_question_is_cut_only_if_that_is_allowed(windower: Windower) -> None:
    question, context = "why " * 300, "because of it " * 200
    with pytest.raises(InputError, match="the question has 300 tokens"):
        QuestionAnswerer(FakeSession(), windower).answer(question=question, context=context)
    allowed = QuestionAnswerer(FakeSession(), windower, truncate_question=True)
    assert allowed.answer(question=question, context=context).text


def test_the_best_answers_of_a_question(answerer: QuestionAnswerer, sample: SquadDataset) -> None:
    for question, context in pairs_of(sample)[::10]:
        answers = answerer.best_answers(question=question, context=context, count=5)
        assert len({answer.text for answer in answers}) == len(answers) == 5
        assert [answer.logit for answer in answers] == sorted((answer.logit for answer in answers), reverse=True)
        assert sum(answer.score for answer in answers) <= 1 + 1e-9
        assert same(answers[0], answerer.answer(question=question, context=context))


def test_more_answers_than_the_usual_list_has(answerer: QuestionAnswerer) -> None:
    context = " ".join(f"w{number}" for number in range(60))
    assert len(answerer.best_answers(question="Who?", context=context, count=50)) == 50
    assert len(answerer.best_answers(question="Who?", context="Her.", count=50)) == 3  # Her / Her. / .
    with pytest.raises(InputError, match="count must be at least 1"):
        answerer.best_answers(question="Who?", context=context, count=0)


def test_a_long_list_in_the_rules_is_kept(windower: Windower) -> None:
    """The score is a softmax over the list: asking for one answer must not shorten it."""
    context = " ".join(f"w{number}" for number in range(60))
    scores = [
        QuestionAnswerer(FakeSession(0.1), windower, rules=SpanRules(n_best=n)).answer(question="Who?", context=context)
        for n in (20, 60)
    ]
    assert scores[1].score < scores[0].score / 2


def test_a_threshold_allows_no_answer(windower: Windower) -> None:
    never, always = (SpanRules(null_threshold=threshold) for threshold in (1e6, -1e6))
    assert QuestionAnswerer(FakeSession(), windower, rules=never).answer(question="Who?", context="Her.").text
    null = QuestionAnswerer(FakeSession(), windower, rules=always).answer(question="Who?", context="Her.")
    assert (null.text, null.start, null.end) == ("", 0, 0)


@pytest.mark.parametrize("rules", [PipelineRules(), PipelineRules(handle_impossible_answer=True, max_answer_len=3)])
def test_compat_hands_windows_and_logits_to_the_pipeline(
    windower: Windower, sample: SquadDataset, rules: PipelineRules
) -> None:
    session = FakeSession()
    answerer = QuestionAnswerer(session, windower, pipeline_rules=rules)
    pairs = pairs_of(sample)
    found = list(answerer.answer_many(pairs, compat="transformers"))
    several = 0
    for (question, context), answer in zip(pairs, found, strict=True):
        windows = windower.windows(question, context)
        several += len(windows) > 1
        one_by_one = [session.run(pad_windows([window])) for window in windows]
        logits = [(result.start[0], result.end[0]) for result in one_by_one]
        [expected] = pipeline_answers(context, windows, logits, rules)
        assert same(answer, expected)
    assert several > 3
    top = answerer.best_answers(question=pairs[0][0], context=pairs[0][1], count=4, compat="transformers")
    assert len(top) == 4
    assert same(top[0], found[0])


def test_an_unknown_compat_mode_is_refused(answerer: QuestionAnswerer) -> None:
    compat: Any = "tensorflow"
    with pytest.raises(InputError, match="unknown compat mode 'tensorflow'; known: transformers"):
        answerer.answer(question="Who?", context="Her.", compat=compat)
    with pytest.raises(InputError, match="unknown compat mode"):
        list(answerer.answer_many([("Who?", "Her.")], compat=compat))


def test_predictions_can_be_scored(answerer: QuestionAnswerer, sample: SquadDataset) -> None:
    predictions = answerer.predict(sample)
    assert list(predictions) == [question.id for question in sample.questions]
    assert score_predictions(sample, predictions).count == len(sample.questions)
    assert answerer.predict_with_null_odds(sample).null_odds == {}


def squad2(*contexts: str) -> SquadDataset:
    questions = (
        SquadQuestion(f"id{number}", "Who?", context, (), (), is_impossible=True)
        for number, context in enumerate(contexts)
    )
    return SquadDataset("v2.0", tuple(questions), "")


@pytest.mark.parametrize("threshold", [None, 0.0, -3.0, 3.0])
def test_squad_2_is_answered_with_a_null_threshold(windower: Windower, threshold: float | None) -> None:
    contexts = [f"Words number {number} of many." for number in range(40)]
    answerer = QuestionAnswerer(FakeSession(2.0), windower, rules=SpanRules(null_threshold=threshold))
    found = answerer.predict_with_null_odds(squad2(*contexts))
    assert set(found.null_odds) == set(found.texts)
    for identity, odds in found.null_odds.items():
        assert (found.texts[identity] == "") == (odds > (threshold or 0.0))


def test_the_null_odds_are_the_smallest_null_score_less_the_best_span(default_tokenizer_json: str) -> None:
    """Several windows, worked out from the session's logits one span at a time."""
    small = Windower(default_tokenizer_json, max_length=32, doc_stride=8)
    context = "Some words of a context that does not fit into a single one of these windows, and " * 2
    session = FakeSession()
    found = QuestionAnswerer(session, small, rules=SpanRules(n_best=32)).predict_with_null_odds(squad2(context))
    null, best = np.inf, -np.inf
    windows = small.windows("Who?", context)
    assert len(windows) > 1
    for window in windows:
        logits = session.run(pad_windows([window]))
        null = min(null, float(logits.start[0, 0] + logits.end[0, 0]))
        inside = range(window.context_start, window.length - 1)
        best = max(best, *(float(logits.start[0, s] + logits.end[0, e]) for s in inside for e in inside if e >= s))
    assert found.null_odds["id0"] == pytest.approx(null - best, abs=1e-4)


def test_a_question_that_cannot_be_used_is_named_in_predictions(answerer: QuestionAnswerer) -> None:
    with pytest.raises(InputError, match="question 'id1': the context is empty"):
        answerer.predict(squad2("Fine.", ""))


@pytest.mark.parametrize("compat", [None, "transformers"])
@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(
    windower: Windower, compat: Any, impossible: bool, value: float
) -> None:
    """Also one of a token that could never be part of the answer; those of padding have no meaning."""

    def answered(token: int) -> Answer:
        def run(batch: Batch) -> Logits:
            logits = made_up_logits(batch)
            logits.start[0, token] = value
            return logits

        answerer = QuestionAnswerer(
            PublicFakeSession(run),
            windower,
            rules=SpanRules(null_threshold=0.0 if impossible else None),
            pipeline_rules=PipelineRules(handle_impossible_answer=impossible),
            backend="abacus fp16",
        )
        [short, _] = answerer.answer_many([("Who?", "Her."), ("Who?", "Her or him or them.")], compat=compat)
        return short

    told = r"abacus fp16 gave no finite logits for 1 of 18 tokens in a batch of 2x11: .*densepack parity shows where"
    with pytest.raises(BackendError, match=told):
        answered(1)


def test_padding_may_be_anything(windower: Windower) -> None:
    def run(batch: Batch) -> Logits:
        logits = made_up_logits(batch)
        return Logits(np.where(batch.attention_mask == 1, logits.start, np.nan).astype(np.float32), logits.end)

    pairs = [("Who?", "Her."), ("Who?", "Her or him or them.")]
    found = list(QuestionAnswerer(PublicFakeSession(run), windower).answer_many(pairs))
    assert found == list(QuestionAnswerer(PublicFakeSession(), windower).answer_many(pairs))


@pytest.mark.parametrize(("stream", "total"), [(list, 30), (iter, None)])
def test_progress_counts_questions(
    answerer: QuestionAnswerer,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[Iterable[tuple[str, str]]], Iterable[tuple[str, str]]],
    total: int | None,
) -> None:
    shown: list[int | None] = []
    steps = 0

    @contextmanager
    def bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
        shown.append(total)

        def advance(count: int) -> None:
            nonlocal steps
            steps += count

        yield advance

    monkeypatch.setattr(question_answerer, "progress_bar", bar)
    assert len(list(answerer.answer_many(stream(numbered(30)), progress=True))) == 30
    assert shown == [total]
    assert steps == 30


def test_progress_writes_nothing_to_stdout(answerer: QuestionAnswerer, capsys: pytest.CaptureFixture[str]) -> None:
    list(answerer.answer_many(list(numbered(3)), progress=True))
    assert capsys.readouterr().out == ""


def test_leaving_the_block_closes_the_session(windower: Windower) -> None:
    session = FakeSession()
    with QuestionAnswerer(session, windower) as answerer:
        assert answerer.answer(question="Who?", context="Her.").text
    assert session.closed
    with pytest.raises(BackendError, match="closed"):
        answerer.answer(question="Who?", context="Her.")


def test_an_answerer_can_be_shared_between_threads(answerer: QuestionAnswerer) -> None:
    pairs = list(numbered(50))
    expected = list(answerer.answer_many(pairs))
    results: dict[int, list[Answer]] = {}

    def work(number: int) -> None:
        results[number] = list(answerer.answer_many(pairs))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[number] == expected for number in range(3))


@pytest.mark.parametrize(
    ("backend", "precision", "batching"),
    [
        ("onnxruntime", "fp16", Batching()),
        ("openvino", "fp32", Batching(few_shapes=True, lanes=2)),
        ("openvino", "int8", Batching(length_multiple=FEW_LENGTHS, few_shapes=True, lanes=2)),
        ("tensorrt", "fp16", Batching(GPU_TOKEN_BUDGET)),
    ],
)
def test_opening_a_bundle(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    default_tokenizer_json: str,
    backend: str,
    precision: ComputePrecision,
    batching: Batching,
) -> None:
    """Windows are those that the manifest asks for, options reach the session, the choice is told."""
    manifest = SimpleNamespace(max_length=64, doc_stride=16)
    opened = SimpleNamespace(tokenizer_json=default_tokenizer_json, manifest=manifest)
    asked: dict[str, Any] = {}

    def choose(bundle: Any, backend: str, precision: ComputePrecision, **_: Any) -> Choice:
        return Choice(backend, precision, "asked for")

    def open_choice(bundle: Any, choice: Choice, options: SessionOptions) -> FakeSession:
        asked.update(
            threads=options.threads,
            cuda_graphs=options.cuda_graphs,
            bundle=bundle,
            backend=choice.backend,
            precision=choice.precision,
        )
        return FakeSession()

    monkeypatch.setattr(bundle_module.Bundle, "open", lambda folder, strict: opened)
    monkeypatch.setattr(backends, "choose_backend", choose)
    monkeypatch.setattr(backends, "open_choice", open_choice)
    options: dict[str, Any] = {"backend": backend, "precision": precision, "threads": 2, "cuda_graphs": False}
    with caplog.at_level(logging.INFO, "densepack"), QuestionAnswerer.open("bundle", **options) as answerer:
        assert (answerer.windower.max_length, answerer.windower.doc_stride) == (64, 16)
        assert answerer.batching == batching
        assert answerer.backend == f"{backend} {precision}"
    assert asked == options | {"bundle": opened}
    assert f"backend {backend} {precision}: asked for" in caplog.text
