"""An iterator that a thread runs ahead of whoever reads it.

with ThreadPoolExecutor(max_workers=1) as worker, closing(Ahead(worker, slow())) as items:
    for item in items: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from queue import SimpleQueue
from threading import Event
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Reads `source` in a thread of `worker`, as fast as it comes, and gives its items here, in order.

    What the source raises is raised here, in its place. Nothing limits how far ahead it reads: it is for sources that
    end soon. `close` stops it after the item that is under way; the source itself is closed in its thread.
    """

    def __init__(self, worker: Executor, source: Iterator[Item]) -> None:
        self._items: SimpleQueue[Item | _End] = SimpleQueue()
        self._stopped = Event()
        worker.submit(self._read, source)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = self._items.get()
        if not isinstance(item, _End):
            return item
        self._items.put(item)  # it ends for good
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()

    def _read(self, source: Iterator[Item]) -> None:
        end = _End()
        try:
            while not self._stopped.is_set():
                self._items.put(next(source))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001  it is raised where the items are read
            end.error = error
        finally:
            if hasattr(source, "close"):
                source.close()
            self._items.put(end)


class _End:
    """The last thing in the queue."""

    error: BaseException | None = None
