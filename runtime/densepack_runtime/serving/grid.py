"""The shapes that a server's batches have, and which of the waiting windows make the next one.

grid = Grid.of(Batching(few_shapes=True), longest=384).measured(partial(seconds_of, session))
places, length = grid.next_batch([34, 162, 384])       # of windows in line, the first of which has to be in it
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from densepack_runtime.sessions.batching import MAX_BATCH, Batching
from densepack_runtime.sessions.lanes import lanes_in
from densepack_runtime.sessions.session import Batch, Session

# Where every shape is prepared for, 12 lengths by at most 12 numbers of rows cost little padding and few seconds.
LENGTH_STEP = 32
# What a batch costs beside its padded tokens, in tokens: until it is measured, and at most.
BATCH_COST, MOST_COST = 32, 512
# It is measured on windows of this length, one and as many as a batch can have; the shortest of so many runs counts.
TIMED_LENGTH, TIMED_RUNS = 128, 5
FEW_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_BATCH)


@dataclass(frozen=True, slots=True)
class Grid:
    """Batches have one of these numbers of `rows` (1 among them) and a length that is a multiple of `step`, within the
    budget of tokens. Rows are never padded: those that are too many wait for the next batch. `batch_cost` is what a
    batch costs beside its padded tokens, in tokens: the more, the rather unlike windows go together.
    """

    token_budget: int
    longest: int
    step: int
    rows: Sequence[int]
    batch_cost: int = BATCH_COST

    @classmethod
    def of(cls, batching: Batching, longest: int) -> Self:
        """For a backend and windows of up to `longest` tokens: few shapes only where it has to prepare them."""
        if batching.few_shapes:
            return cls(batching.token_budget, longest, LENGTH_STEP, FEW_ROWS)
        return cls(batching.token_budget, longest, batching.length_multiple, range(1, MAX_BATCH + 1))

    def measured(self, seconds: Callable[[int, int], float]) -> Self:
        """With the cost of a batch on this host, by the seconds that batches of so many rows and a length take.

        A window alone does not fill a fast processor, so that this depends on the model as well.
        """
        length = self.length(min(TIMED_LENGTH, self.longest))
        rows = self.rows_at(length)
        if rows == 1:
            return self
        one, many = seconds(1, length), seconds(rows, length)
        a_token = max(many - one, 0.0) / ((rows - 1) * length)
        beside = max(one - a_token * length, 0.0)
        cost = beside / a_token if beside < MOST_COST * a_token else MOST_COST
        return replace(self, batch_cost=round(cost))

    def length(self, tokens: int) -> int:
        """What windows of so many tokens are padded to."""
        return max(tokens, min(self.longest, -(-tokens // self.step) * self.step))

    def rows_at(self, length: int) -> int:
        """The most rows of a batch of this length."""
        return self.rows[bisect_right(self.rows, max(1, self.token_budget // length)) - 1]

    def next_batch(self, lengths: Sequence[int]) -> tuple[list[int], int]:
        """The places of the windows to run next, and the length to pad them to; `lengths` are those of all in line.

        Of the batches that all of them make, cut where it costs least, it is the one with the first in line.
        """
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        first = 0
        for rows in self._cheapest_cuts([self.length(lengths[place]) for place in order]):
            if 0 in (places := order[first : first + rows]):
                return places, self.length(lengths[order[first]])
            first += rows
        raise AssertionError("the cuts hold every place")

    def _cheapest_cuts(self, lengths: Sequence[int]) -> list[int]:
        """The rows of each batch that windows of these lengths, longest first, make at the least cost of all."""
        costs, cuts = [0] * (len(lengths) + 1), [0] * len(lengths)  # of what comes from a place on
        for first in reversed(range(len(lengths))):
            able = self.rows[: bisect_right(self.rows, min(self.rows_at(lengths[first]), len(lengths) - first))]
            costs[first], cuts[first] = min(
                (self.batch_cost + rows * lengths[first] + costs[first + rows], -rows) for rows in able
            )
        found, first = [], 0
        while first < len(lengths):
            found.append(-cuts[first])
            first += found[-1]
        return found

    def shapes(self) -> list[tuple[int, int]]:
        """All (rows, length) that a batch can have, the largest first: what a backend then keeps fits the rest."""
        lengths = sorted({self.length(tokens) for tokens in range(1, self.longest + 1, self.step)}, reverse=True)
        return [(rows, length) for length in lengths for rows in reversed(self.rows) if rows <= self.rows_at(length)]


def warm(session: Session, shapes: Iterable[tuple[int, int]]) -> None:
    """Run a batch of each shape in every lane, so that no request waits for what a backend does at the first."""
    for shape in shapes:
        for lane in lanes_in(session):
            lane.run(batch_of(*shape))


def seconds_of(session: Session, rows: int, length: int) -> float:
    """What a batch of this shape costs where nothing else runs: the time of one in every lane, by their number."""
    lanes = len(lanes_in(session))
    with ThreadPoolExecutor(lanes) as pool:
        return min(seconds_together(session, rows, length, pool) for _ in range(TIMED_RUNS)) / lanes


def seconds_together(session: Session, rows: int, length: int, pool: ThreadPoolExecutor) -> float:
    """How long it takes when every lane runs a batch of this shape, in the threads of a pool with one for each.

    The first batch of a thread takes longer.
    """
    batch, start = batch_of(rows, length), time.perf_counter()
    for running in [pool.submit(lane.run, batch) for lane in lanes_in(session)]:
        running.result()
    return time.perf_counter() - start


def batch_of(rows: int, length: int) -> Batch:
    """A batch of this shape that holds nobody's windows."""
    zeros = np.zeros((rows, length), dtype=np.int64)
    return Batch(zeros, np.ones_like(zeros), zeros)
