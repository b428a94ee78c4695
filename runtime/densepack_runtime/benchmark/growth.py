"""How cost grows: seconds and memory over the number of questions, the words of a context, and the threads.

    rows = measure_growth(sides, GrowthPlan(questions=(100, 1000)))
    [(row["value"], row["seconds"], row["peak_rss_mib"]) for row in rows if row["axis"] == "questions"]

Each point runs in a fresh process, so that its memory is its own. Texts are random words of the tokenizer's vocabulary,
made while they are read: the stream is in nobody's memory.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np

from densepack_runtime.benchmark.sides import OnStep, OpenSession, Side, Texts, unheard
from densepack_runtime.errors import InputError
from densepack_runtime.host.allocator import release_freed_memory
from densepack_runtime.host.cores import usable_cores
from densepack_runtime.host.fresh_process import in_fresh_process
from densepack_runtime.host.machine import forget_peak, peak_resident_mib, resident_mib
from densepack_runtime.question_answering.pairs import Pair
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.sessions.batching import Batching
from densepack_runtime.sessions.metered_session import Meter, MeteredSession
from densepack_runtime.sessions.options import DEFAULT, SessionOptions

Axis = Literal["questions", "context_words", "threads"]
# The means of SQuAD v1.1's development set are 10.2 and 124.0 words.
QUESTION_WORDS = 10
CONTEXT_WORDS = 124
# A point is repeated as long as that takes no longer than this: the short ones are what noise disturbs.
MOST_REPEATS = 3
REPEAT_SECONDS = 5.0
_SHORTEST_WORD = 3


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """One workload: so many questions, each about a context of so many words, with so many threads.

    `axis` is the field that the points of a curve differ in.
    """

    axis: Axis
    questions: int
    context_words: int
    threads: int

    @property
    def value(self) -> int:
        """Where the point is on its axis."""
        return int(getattr(self, self.axis))


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """The points of every axis. What is not on the axis: `CONTEXT_WORDS` a context, one question about a long one, all
    physical cores; threads are compared on the smallest number of questions.
    """

    questions: tuple[int, ...] = (100, 1_000, 10_000)
    context_words: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    threads: tuple[int, ...] = (1, 2)

    def points(self, threads: int | None = None) -> list[GrowthPoint]:
        """All points; `threads` are those of the axes that are not about threads."""
        usual = threads or usable_cores()
        return [
            *(GrowthPoint("questions", value, CONTEXT_WORDS, usual) for value in self.questions),
            *(GrowthPoint("context_words", 1, value, usual) for value in self.context_words),
            *(GrowthPoint("threads", min(self.questions), CONTEXT_WORDS, value) for value in self.threads),
        ]


def measure_growth(
    sides: Sequence[Side],
    plan: GrowthPlan | None = None,
    *,
    options: SessionOptions = DEFAULT,
    seed: int = 0,
    on_step: OnStep = unheard,
) -> list[dict[str, Any]]:
    """The section `growth` of a benchmark document: a row for every point and side.

    Raises InputError for a side that has no tokenizer or cannot be opened in another process.
    """
    rows = []
    for point in (plan or GrowthPlan()).points(options.threads):
        for side in sides:
            on_step(f"{side.name} {point.value} {point.axis}")
            if side.texts is None or side.open_again is None:
                raise InputError(f"{side.name} cannot be measured in a fresh process: it has no tokenizer or no source")
            measured = in_fresh_process(measure_point, side.open_again, side.texts, point, seed, side.batching, options)
            rows.append({"side": side.name, "value": point.value, **asdict(point), **measured})
    return rows


def growth_steps(sides: int, plan: GrowthPlan) -> int:
    """How often `on_step` will be called."""
    return sides * len(plan.points())


def measure_point(
    open_session: OpenSession,
    texts: Texts,
    point: GrowthPoint,
    seed: int,
    batching: Batching | None = None,
    options: SessionOptions = DEFAULT,
) -> dict[str, Any]:
    """Open the session and answer the questions of a point. For a process that has done nothing else."""
    words = whole_words(texts.tokenizer_json)
    samples: list[float] = []
    with open_session(replace(options, threads=point.threads)) as session:
        metered = MeteredSession(session)
        answerer = QuestionAnswerer(metered, texts.windower(), batching=batching)
        _answer(answerer, synthetic_pairs(words, 1, CONTEXT_WORDS, seed))
        # What opening freed would hide as much of what answering takes.
        release_freed_memory()
        forget_peak()
        ready = resident_mib()
        while not samples or (len(samples) < MOST_REPEATS and sum(samples) < REPEAT_SECONDS):
            start = time.perf_counter()
            metered.meter = Meter()
            _answer(answerer, synthetic_pairs(words, point.questions, point.context_words, seed))
            samples.append(time.perf_counter() - start)
    seconds, meter = median(samples), metered.meter
    return {
        "seconds": seconds,
        "samples_s": samples,
        "windows": meter.windows,
        "tokens": meter.tokens,
        "padded_tokens": meter.padded_tokens,
        "questions_per_s": point.questions / seconds,
        "tokens_per_s": meter.tokens / seconds,
        "ready_rss_mib": ready,
        "peak_rss_mib": peak_resident_mib(),
    }


def _answer(answerer: QuestionAnswerer, pairs: Iterator[Pair]) -> None:
    """Answer them all and keep none."""
    deque(answerer.answer_many(pairs), maxlen=0)


def whole_words(tokenizer_json: str) -> list[str]:
    """The words of a WordPiece vocabulary that are one token each. Raises InputError when there are none."""
    vocabulary = json.loads(tokenizer_json)["model"]["vocab"]
    words = sorted(word for word in vocabulary if len(word) >= _SHORTEST_WORD and word.isascii() and word.isalpha())
    if not words:
        raise InputError("the tokenizer's vocabulary has no whole words, and synthetic questions are made of them")
    return words


def synthetic_pairs(words: Sequence[str], questions: int, context_words: int, seed: int) -> Iterator[Pair]:
    """Questions and contexts of random words, each made when it is asked for; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    known = np.array(words)
    for _ in range(questions):
        drawn = known[rng.integers(len(known), size=QUESTION_WORDS + context_words)]
        yield f"{' '.join(drawn[:QUESTION_WORDS])}?", " ".join(drawn[QUESTION_WORDS:])
