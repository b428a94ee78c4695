"""Batches hold every window once, padded right, within the budget, and are made from bounded pools."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densepack_runtime.errors import InputError
from densepack_runtime.sessions.batching import length_sorted_batches, pad_windows
from densepack_runtime.sessions.session import INPUT_NAMES, Batch, Window
from densepack_runtime.sessions.shapes import bucket, fill_padded


def make_window(length: int, example: int = 0) -> Window:
    ids = np.arange(1, length + 1, dtype=np.int32)
    return Window(example, ids, context_start=2, offsets=np.zeros((length - 3, 2), dtype=np.int32))


def test_padding() -> None:
    batch = pad_windows([make_window(4), make_window(6)], pad_id=9, length=7)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 9, 9, 9], [1, 2, 3, 4, 5, 6, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0]]
    assert all(array.dtype == np.int64 for array in batch.arrays().values())
    assert batch.shape == (2, 7)


@pytest.mark.parametrize(("lengths", "width"), [([], None), ([5], 4)])
def test_what_cannot_be_padded_is_refused(lengths: list[int], width: int | None) -> None:
    with pytest.raises(InputError, match="cannot pad"):
        pad_windows([make_window(length) for length in lengths], length=width)


@given(
    lengths=st.lists(st.integers(4, 60), max_size=60),
    budget=st.integers(1, 300),
    most=st.integers(1, 8),
    pool=st.integers(1, 20),
    multiple=st.integers(1, 20),
)
def test_every_window_comes_once_and_within_the_budget(
    lengths: list[int], budget: int, most: int, pool: int, multiple: int
) -> None:
    windows = [make_window(length, example) for example, length in enumerate(lengths)]
    batches = list(
        length_sorted_batches(windows, token_budget=budget, max_batch=most, pool_windows=pool, length_multiple=multiple)
    )
    assert sorted(window.example for batch in batches for window in batch.windows) == list(range(len(lengths)))
    for batch in batches:
        rows, width = batch.shape
        assert rows <= most
        assert rows == 1 or rows * width <= budget
        longest = max(window.length for window in batch.windows)
        assert longest <= width < longest + multiple
        assert width <= max(lengths)


def test_similar_lengths_come_together() -> None:
    windows = [make_window(length) for length in [10, 50, 11, 49] * 10]
    batches = list(length_sorted_batches(windows, token_budget=500))
    padded, real = sum(batch.input_ids.size for batch in batches), sum(window.length for window in windows)
    assert padded < 1.1 * real


def test_reads_no_further_than_its_pool() -> None:
    read = 0

    def endless() -> Iterator[Window]:
        nonlocal read
        while True:
            read += 1
            yield make_window(10)

    next(length_sorted_batches(endless(), pool_windows=50))
    assert read == 50


@pytest.mark.parametrize("setting", ["token_budget", "max_batch", "pool_windows", "length_multiple"])
def test_settings_must_be_positive(setting: str) -> None:
    with pytest.raises(InputError, match="must be positive"):
        next(length_sorted_batches([make_window(5)], **{setting: 0}))


@pytest.mark.parametrize(
    ("real", "largest", "padded"),
    [
        ((1, 1), (64, 384), (1, 64)),
        ((5, 65), (64, 384), (8, 128)),
        ((33, 384), (40, 384), (40, 384)),
        ((2, 350), (8, 360), (2, 360)),
        ((9, 400), (8, 384), (9, 400)),
    ],
)
def test_buckets(real: tuple[int, int], largest: tuple[int, int], padded: tuple[int, int]) -> None:
    assert bucket(real, largest) == padded


def test_padded_rows_keep_one_token() -> None:
    ones = np.ones((2, 3), dtype=np.int64)
    targets = {name: np.full((4, 5), 9, dtype=np.int64) for name in INPUT_NAMES}
    fill_padded(Batch(ones, ones, ones), targets)
    assert targets["input_ids"].tolist() == [[1, 1, 1, 0, 0]] * 2 + [[0] * 5] * 2
    assert targets["attention_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2 + [[1, 0, 0, 0, 0]] * 2
