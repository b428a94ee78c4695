"""Texts as nobody means them, for the kinds that ask questions."""

from __future__ import annotations

import random
from functools import cache

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.fake_session import FakeSession
from tests.conftest import REPOSITORY

TOKENIZER = REPOSITORY / "models" / "checkpoints" / "default" / "tokenizer.json"
PIECES = (
    *(
        "Who",
        "the dog",
        "Ann saw Bob.",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
        "##s",
        "'s",
        "-",
        "  ",
        "\t",
        "\r\n",
    ),
    *(
        "\x00",
        "\x1b[31m",
        "\x7f",
        "\u00ad",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
        "e\u0301\u0323",
        "ﬁ",
        "İ",
    ),
    *(
        "العاصمة",
        "東京",
        "क्षि",
        "👩‍👩‍👧",
        "[i]x[/i]",
        ":smile:",
        "{}",
        "%s",
        "\\u0041",
        "x" * 120,
        "7" * 30,
        "ß",
        "…",
        "\u2028",
    ),
)
SURROGATES = ("\ud800", "\udfff", "\udc80")
HUGE_WORDS = 20_000


@cache
def answerer() -> QuestionAnswerer:
    """A real windower and real rules behind a session without a model."""
    return QuestionAnswerer(FakeSession(), Windower.from_file(TOKENIZER))


def hostile_text(rng: random.Random) -> str:
    """Mostly a few odd pieces; now and then nothing, a lone surrogate, any characters, or far too much."""
    luck = rng.random()
    if luck < 0.03:
        return ""
    if luck < 0.06:
        return rng.choice(PIECES) + rng.choice(SURROGATES)
    if luck < 0.16:
        return "".join(chr(rng.randrange(0xD800)) for _ in range(rng.randrange(1, 40)))
    if luck < 0.162:
        return "more words " * HUGE_WORDS
    return rng.choice(("", " ")).join(rng.choice(PIECES) for _ in range(rng.randrange(1, 30)))
