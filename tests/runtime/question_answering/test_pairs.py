"""Whatever is given in place of a pair is a pair or an InputError in its place."""

from __future__ import annotations

from collections import UserDict
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.pairs import PAUSE, checked_pair, checked_pairs, shown


class Word(StrEnum):
    WHO = "Who?"


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "given",
    [
        ("Who?", "Her."),
        ["Who?", "Her."],
        {"question": "Who?", "context": "Her.", "id": 3},
        UserDict(question="Who?", context="Her."),
        (Word.WHO, np.str_("Her.")),
    ],
)
def test_a_pair(given: object) -> None:
    found = checked_pair(given)
    assert found == ("Who?", "Her.")
    assert not isinstance(found, InputError)
    assert list(map(type, found)) == [str, str]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "None"),
        (3, "3"),
        ("ab", "'ab'"),
        (("Who?",), r"\('Who\?',\)"),
        (("Who?", "Her.", "Him."), r"\('Who\?', 'Her.', 'Him.'\)"),
        (("Who?", None), r"\('Who\?', None\)"),
        (("Who?", b"Her."), r"\('Who\?', b'Her.'\)"),
        ({"question": "Who?"}, r"\{'question': 'Who\?'\}"),
        ({"question": "Who?", "context": 3}, "'context': 3"),
        ({"Who?"}, "{'"),
        (10**5000, "of the type int"),
        (Unspeakable(), "of the type Unspeakable"),
        ("x" * 10**6, f"'{'x' * 59}…$"),
    ],
    ids=shown,
)
def test_no_pair(given: Any, told: str) -> None:
    found = checked_pair(given)
    assert isinstance(found, InputError)
    with pytest.raises(InputError, match=f"must be a pair of strings, this is .*{told}"):
        raise found


def test_what_the_producer_raises_comes_after_a_pause() -> None:
    def pairs() -> Any:
        yield "Who?", "Her."
        yield PAUSE
        yield None
        raise KeyError("gone")

    source = checked_pairs(pairs())
    assert next(source) == ("Who?", "Her.")
    assert next(source) is PAUSE
    assert isinstance(next(source), InputError)
    assert next(source) is PAUSE
    with pytest.raises(KeyError, match="gone"):
        next(source)


def test_values_are_shortened() -> None:
    assert shown([1]) == "[1]"
    assert shown("\ud800") == "'\\ud800'"
    assert len(shown(list(range(10**5)))) == 61
