"""Pairs as a program may hand them over by mistake: each ends as an answer from its context, or as its own error."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.pairs import PAUSE
from densepack_runtime.question_answering.question_answerer import Compat
from tests.faults.kinds.hostile_texts import answerer, hostile_text
from tests.faults.kinds.kind import ENDED, TRACEBACK, WRONG, kind

AT_ONCE = 100
NO_PAIRS: tuple[Any, ...] = (
    *(None, 3, 2.5, True, "", "ab", b"ab", (), ("Who?",), ("Who?", None), (None, "Her."), ("Who?", b"Her.")),
    *({}, {"question": "Who?"}, {"context": "Her."}, {"question": 1, "context": "Her."}, {"Who?", "Her."}, object()),
    *(("Who?", "Her.", "Him."), [["Who?", "Her."]], ("Who?", ["Her."]), 10**5000, [10**5000], InputError("not JSON")),
)


@kind("fuzzed pairs", tries=20_000, quick=100)
def fuzzed_pairs(seed: int, _folder: Path) -> Iterator[str]:
    rng = random.Random(seed)
    modes: tuple[Compat | None, ...] = (None, "transformers")
    for mode in itertools.cycle(modes):
        given = [_pair(rng) for _ in range(AT_ONCE)]
        yield from _endings(given, mode, rng)


def _pair(rng: random.Random) -> Any:
    if rng.random() < 0.15:
        return rng.choice(NO_PAIRS)
    question, context = hostile_text(rng), hostile_text(rng)
    shape = rng.randrange(6)
    if shape == 0:
        return {"question": question, "context": context, "id": None}
    return [question, context] if shape == 1 else (question, context)


def _endings(given: list[Any], mode: Compat | None, rng: random.Random) -> Iterator[str]:
    stream = itertools.chain.from_iterable((pair, PAUSE) if rng.random() < 0.02 else (pair,) for pair in given)
    together = answerer().answer_many(stream, compat=mode, on_error="yield")
    for number, pair in enumerate(given):
        try:
            found = next(together)
            [alone] = answerer().answer_many([pair], compat=mode, on_error="yield")
        except StopIteration:
            yield f"{ENDED} after {number} of {len(given)}"
        except BaseException as error:  # noqa: BLE001  what the kind counts
            yield f"{TRACEBACK} {error!r} at {pair!r}"
        else:
            yield _ending(pair, found, alone)


def _ending(pair: Any, found: Answer | InputError, alone: Answer | InputError) -> str:
    if isinstance(found, InputError):
        return "refused in its place" if str(found) == str(alone) else f"{WRONG}: {found} instead of {alone}"
    context = pair["context"] if isinstance(pair, Mapping) else pair[1]
    right = (
        isinstance(alone, Answer)
        and (found.start, found.end) == (alone.start, alone.end)
        and found.text == context[found.start : found.end]
        and math.isclose(found.score, alone.score)
    )
    return "answered as alone" if right else f"{WRONG}: {found} instead of {alone}"
