"""What a thread reads ahead comes in order, with its errors, and stops when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from densepack_runtime.question_answering.ahead import Ahead

SECONDS = 20


@pytest.fixture
def worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool


def test_items_come_in_order_from_another_thread(worker: ThreadPoolExecutor) -> None:
    source = ((number, threading.get_ident()) for number in range(1000))
    items = list(Ahead(worker, source))
    assert [number for number, _ in items] == list(range(1000))
    assert {thread for _, thread in items} != {threading.get_ident()}


def test_it_does_not_wait_to_be_asked(worker: ThreadPoolExecutor) -> None:
    last = threading.Event()

    def source() -> Iterator[int]:
        yield from range(3)
        last.set()

    items = Ahead(worker, source())
    assert last.wait(SECONDS)
    assert list(items) == [0, 1, 2]


def test_an_error_comes_in_its_place_and_stays(worker: ThreadPoolExecutor) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    items = Ahead(worker, source())
    assert next(items) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            next(items)


def test_it_ends_for_good(worker: ThreadPoolExecutor) -> None:
    items = Ahead(worker, iter([1]))
    assert list(items) == [1]
    assert list(items) == []


def test_close_stops_after_the_item_under_way(worker: ThreadPoolExecutor) -> None:
    under_way, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        try:
            yield 0
            under_way.set()
            assert go_on.wait(SECONDS)
            yield 1
            pytest.fail("read on after close")
        finally:
            closed.set()

    with closing(Ahead(worker, source())):
        assert under_way.wait(SECONDS)
    go_on.set()
    assert closed.wait(SECONDS)


def test_one_that_is_closed_before_its_turn_reads_nothing(worker: ThreadPoolExecutor) -> None:
    free = threading.Event()
    worker.submit(free.wait, SECONDS)

    def source() -> Iterator[int]:
        yield pytest.fail("read after close")

    items = Ahead(worker, source())
    items.close()
    free.set()
    assert list(items) == []
