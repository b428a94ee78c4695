"""What is asked: a question with its context, and what else may stand in a stream of them.

checked_pair(("Who?", "Her."))                                # as it is
checked_pair({"question": "Who?", "context": "Her."})         # ("Who?", "Her.")
checked_pair(None)                                            # InputError, to stand in its place
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from densepack_runtime.errors import InputError

Pair = tuple[str, str]
_SHOWN_CHARACTERS = 60


class Pause(Enum):
    """Stands in a stream where nothing more comes for now: what came before is answered without waiting for more."""

    PAUSE = "pause"


PAUSE: Final = Pause.PAUSE
Given = Pair | Mapping[str, str] | InputError | Pause


def checked_pair(given: object) -> Pair | InputError:
    """The pair, or what is wrong with it: callers without type checking pass all kinds of things.

    An InputError (a line that could not be parsed, say) is passed on.
    """
    if isinstance(given, InputError):
        return given
    texts = (given.get("question"), given.get("context")) if isinstance(given, Mapping) else given
    if isinstance(texts, tuple | list) and len(texts) == 2 and all(isinstance(text, str) for text in texts):
        # Of a class of its own, a text may be shown, hashed or cut in its own way.
        question, context = map(str.__str__, texts)
        return question, context
    return InputError(f"a question with its context must be a pair of strings, this is {shown(given)}")


def checked_pairs(pairs: Iterable[Given]) -> Iterator[Pair | InputError | Pause]:
    """Every pair, or what is wrong with it. What the producer of the pairs raises comes after a pause."""
    try:
        for given in pairs:
            yield given if given is PAUSE else checked_pair(given)
    except Exception:
        yield PAUSE
        raise


def shown(value: Any) -> str:
    """A value for a message: shortened, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  integers of more digits than Python writes, and what a caller's class raises
        return f"of the type {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
