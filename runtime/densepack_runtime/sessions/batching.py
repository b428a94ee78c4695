"""Padded batches of windows of similar length, under a budget of tokens.

A window of 150 tokens must not pay for one of 384: windows are sorted by length inside a bounded pool, so the memory
does not grow with the stream and padding stays small.

    for batch in length_sorted_batches(windows, token_budget=2048):
        logits = session.run(batch)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from densepack_runtime.errors import InputError
from densepack_runtime.sessions.session import Batch, Window

# Padded tokens of a batch. What a layer makes of more of them leaves the caches of a CPU; fewer leave a GPU idle.
TOKEN_BUDGET = 2048
GPU_TOKEN_BUDGET = 4096
# oneDNN compiles a kernel for every shape that it sees in BF16 and INT8, and holds on to it; packed layers share none.
FEW_LENGTHS = 16
# Of a CPU that Python needs as well.
CPU_LANES = 2
MAX_BATCH = 64
POOL_WINDOWS = 2048


@dataclass(frozen=True, slots=True)
class Batching:
    """How windows become batches: padded tokens of one at most, and what its length is rounded up to.

    `few_shapes` says that the backend prepares itself for every shape it sees: a server keeps to few, prepared before.
    `lanes` are the batches that a server runs at once where it has several threads: while one waits for a core that
    Python has, another goes on.
    """

    token_budget: int = TOKEN_BUDGET
    length_multiple: int = 1
    few_shapes: bool = False
    lanes: int = 1

    def lanes_of(self, threads: int) -> int:
        """How many batches to run at once with so many threads: one alone waits for no other."""
        return min(self.lanes, threads)


def pad_windows(windows: Sequence[Window], *, pad_id: int = 0, length: int | None = None) -> Batch:
    """One padded batch, int64 [B, S], S the longest window or `length`. Raises InputError when a window is longer."""
    longest = max((window.length for window in windows), default=0)
    width = longest if length is None else length
    if not windows or longest > width:
        raise InputError(f"cannot pad {len(windows)} windows of up to {longest} tokens to {width}")
    lengths = np.array([window.length for window in windows])
    starts = np.array([window.context_start for window in windows])
    columns = np.arange(width)
    mask = columns < lengths[:, None]  # [B, S]
    input_ids = np.full((len(windows), width), pad_id, dtype=np.int64)
    input_ids[mask] = np.concatenate([window.token_ids for window in windows])
    return Batch(
        input_ids=input_ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=(mask & (columns >= starts[:, None])).astype(np.int64),
        windows=tuple(windows),
    )


def length_sorted_batches(
    windows: Iterable[Window],
    *,
    pad_id: int = 0,
    token_budget: int = TOKEN_BUDGET,
    max_batch: int = MAX_BATCH,
    pool_windows: int = POOL_WINDOWS,
    length_multiple: int = 1,
) -> Iterator[Batch]:
    """Batches of at most `token_budget` padded tokens and `max_batch` windows, longest windows of a pool first.

    Reads at most `pool_windows` windows ahead. A single window longer than the budget is a batch of its own.
    `length_multiple` rounds lengths up (never beyond the longest window of the pool): a backend that prepares itself
    for every shape it sees then sees few.
    """
    if min(token_budget, max_batch, pool_windows, length_multiple) < 1:
        raise InputError(
            "token_budget, max_batch, pool_windows and length_multiple must be positive: "
            f"{token_budget}, {max_batch}, {pool_windows}, {length_multiple}"
        )
    source = iter(windows)
    while pool := list(islice(source, pool_windows)):
        pool.sort(key=lambda window: window.length, reverse=True)
        first = 0
        while first < len(pool):
            length = min(pool[0].length, -(-pool[first].length // length_multiple) * length_multiple)
            rows = max(1, min(max_batch, token_budget // length))
            yield pad_windows(pool[first : first + rows], pad_id=pad_id, length=length)
            first += rows
