"""A stream of questions in pools of bounded size: tokenised, run and ranked, each step for whoever needs it.

    for pool in pools_of(pairs, windower):
        for answers in ranked(pool, run_pool(pool, session), SpanRules()): ...     # in input order

`answer_stream` does all three at once: a thread runs the model while this one tokenises and ranks.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.question_answering.ahead import Ahead
from densepack_runtime.question_answering.answers import Answer, Rules
from densepack_runtime.question_answering.pairs import PAUSE, Given, Pair, Pause, checked_pairs
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.batching import Batching, length_sorted_batches
from densepack_runtime.sessions.session import Batch, Logits, Session, Window

# Questions that are sorted by length and run together, and the windows that end a pool early when contexts are long:
# what bounds the memory of a stream. While one pool is computed, the next one is tokenised: the stream is read at most
# 2 * POOL_QUESTIONS + PAIRS_AT_ONCE questions ahead.
POOL_QUESTIONS = 1024
POOL_WINDOWS = 4096


@dataclass
class Pool:
    """Questions that are answered together: contexts, and windows or what is wrong with the question.

    `first` is the number of the pool's first question since the last pause; windows carry the number of theirs.
    """

    first: int
    contexts: list[str] = field(default_factory=list)
    results: list[list[Window] | InputError] = field(default_factory=list)
    window_count: int = 0

    def add(self, pair: Pair | InputError, result: list[Window] | InputError) -> None:
        self.contexts.append("" if isinstance(pair, InputError) else pair[1])
        self.results.append(result)
        self.window_count += 0 if isinstance(result, InputError) else len(result)

    @property
    def is_full(self) -> bool:
        return len(self.results) >= POOL_QUESTIONS or self.window_count >= POOL_WINDOWS

    def windows(self) -> Iterator[Window]:
        for result in self.results:
            if not isinstance(result, InputError):
                yield from result


def pools_of(pairs: Iterable[Given], windower: Windower, *, truncate_question: bool = False) -> Iterator[Pool | None]:
    """The questions with their windows, in input order. A pair that cannot be used is an InputError in its place.

    None follows where nothing more comes for now: at a pause, at the end, and before what the producer raises.
    """
    source = checked_pairs(pairs)
    for given in source:
        if given is not PAUSE:
            yield from _pools_until_pause(chain([given], source), windower, truncate_question=truncate_question)
            yield None


def _pools_until_pause(
    source: Iterable[Pair | InputError | Pause], windower: Windower, *, truncate_question: bool
) -> Iterator[Pool]:
    read: deque[Pair | InputError] = deque()  # what the windower has taken and not given back yet

    def remembered() -> Iterator[Pair | InputError]:
        for pair in source:
            if pair is PAUSE:
                return
            read.append(pair)
            yield pair

    pool = Pool(first=0)
    for result in windower.windows_or_errors(remembered(), truncate_question=truncate_question):
        pool.add(read.popleft(), result)
        if pool.is_full:
            yield pool
            pool = Pool(first=pool.first + len(pool.results))
    if pool.results:
        yield pool


def run_pool(
    pool: Pool, session: Session, batching: Batching | None = None, pad_id: int = 0, *, backend: str | None = None
) -> Iterator[tuple[Batch, Logits]]:
    """All windows of a pool in batches of similar length, with their logits.

    Raises BackendError, which names `backend` (by default the session's class), for logits that are no numbers.
    """
    batching = batching or Batching()
    under_way: deque[Batch] = deque()

    def batches() -> Iterator[Batch]:
        for batch in length_sorted_batches(
            pool.windows(),
            pad_id=pad_id,
            token_budget=batching.token_budget,
            length_multiple=batching.length_multiple,
            pool_windows=max(1, pool.window_count),
        ):
            under_way.append(batch)
            yield batch

    for logits in session.run_many(batches()):
        batch = under_way.popleft()
        refuse_non_finite(batch, logits, backend or type(session).__name__)
        yield batch, logits


def refuse_non_finite(batch: Batch, logits: Logits, backend: str) -> None:
    """Raise BackendError, which names the backend, for logits of real tokens that are no numbers."""
    real = batch.attention_mask != 0  # padding has no meaning
    bad = np.count_nonzero(real & ~(np.isfinite(logits.start) & np.isfinite(logits.end)))
    if bad:
        rows, length = batch.shape
        raise BackendError(
            f"{backend} gave no finite logits for {bad} of {np.count_nonzero(real)} tokens in a batch of "
            f"{rows}x{length}: the weights are damaged, or the precision overflows (densepack parity shows where)"
        )


def ranked(
    pool: Pool, computed: Iterator[tuple[Batch, Logits]], rules: Rules[Any]
) -> Iterator[list[Answer] | InputError]:
    """The answers to every question of a pool, best first, or what is wrong with it; in input order."""
    found: dict[int, list[Any]] = defaultdict(list)
    for batch, logits in computed:
        for window, read in zip(batch.windows, rules.read(batch, logits), strict=True):
            found[window.example - pool.first].append(read)
    for place, result in enumerate(pool.results):
        # What was read of a window may hold on to the logits of its whole batch.
        yield result if isinstance(result, InputError) else rules.answers(pool.contexts[place], found.pop(place))


def answer_stream(
    pools: Iterable[Pool | None],
    run: Callable[[Pool], Iterator[tuple[Batch, Logits]]],
    rules: Rules[Any],
) -> Iterator[list[Answer] | InputError]:
    """`ranked` for one pool after another. A thread calls `run`; this one makes the next pool and ranks meanwhile.

    At None in place of a pool, all before it is answered before the next one is asked for.
    """
    under_way: deque[tuple[Pool, Ahead[tuple[Batch, Logits]]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="densepack-model") as worker:
        try:
            for pool in pools:
                if pool is not None:
                    under_way.append((pool, Ahead(worker, run(pool))))
                while len(under_way) > (0 if pool is None else 1):
                    yield from ranked(*under_way[0], rules)
                    under_way.popleft()
        finally:  # an error, or nobody wants the rest
            for _, computed in under_way:
                computed.close()
