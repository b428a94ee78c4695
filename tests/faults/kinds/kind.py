"""A kind of fault: how it is made, how often, and how each try ended.

    @kind("damaged bundles", tries=600)
    def damaged_bundles(seed: int, folder: Path) -> Iterator[str]:
        while True:
            yield "opened, with the same answers"        # or REFUSED, or one of the BROKEN endings

A kind yields endings for as long as it is asked. An ending is a phrase; those that must never be are in BROKEN, and a
phrase that begins with one of them may go on after a colon with what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REFUSED = "refused with one line"

TRACEBACK = "TRACEBACK"
LOST = "LOST FILE"
ENDED = "STREAM ENDED"
WRONG = "WRONG ANSWER"
EXECUTED = "EXECUTED"
HALF = "HALF WRITTEN"
UNANSWERED = "UNANSWERED"
BROKEN = (TRACEBACK, LOST, ENDED, WRONG, EXECUTED, HALF, UNANSWERED)

Endings = Callable[[int, Path], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """`tries` is what the whole table asks for; the suite takes `quick` of them."""

    name: str
    tries: int
    quick: int
    endings: Endings


KINDS: dict[str, Kind] = {}


def kind(name: str, *, tries: int, quick: int) -> Callable[[Endings], Endings]:
    """Register a kind of fault."""

    def register(endings: Endings) -> Endings:
        KINDS[name] = Kind(name, tries, quick, endings)
        return endings

    return register


def broken(ending: str) -> bool:
    """Whether a try ended as none may."""
    return ending.startswith(BROKEN)
