"""The layout of a pair, its padding and its words are read from the tokenizer, whatever kind it is of."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.pair_format import PairFormat, load_tokenizer
from densepack_runtime.question_answering.pipeline_compat import pipeline_answers
from densepack_runtime.question_answering.windows import Windower
from tests.runtime.question_answering.test_windows import reference_windows
from tests.tiny_tokenizers import SENTENCES, byte_level_tokenizer, unigram_tokenizer

KINDS = pytest.mark.parametrize("make", [byte_level_tokenizer, unigram_tokenizer])
CONTEXT = " ".join(SENTENCES) + "\u00a0 It's  naïve 🎹\n</s> "


def test_of_bert(default_tokenizer_json: str) -> None:
    found = PairFormat.of(load_tokenizer(default_tokenizer_json))
    assert [found.prefix.tolist(), found.middle.tolist(), found.suffix.tolist()] == [[101], [102], [102]]
    assert (found.pad, found.context_type, found.special_tokens) == (0, 1, 3)


@KINDS
def test_with_two_separators_and_no_token_types(make: Callable[[], Tokenizer]) -> None:
    found = PairFormat.of(load_tokenizer(make().to_str()))
    assert [found.prefix.tolist(), found.middle.tolist(), found.suffix.tolist()] == [[0], [2, 2], [2]]
    assert (found.pad, found.context_type, found.special_tokens) == (1, 0, 4)


@KINDS
@pytest.mark.parametrize(("length", "stride"), [(384, 128), (40, 8)])
def test_windows_are_those_of_the_tokenizers_library(make: Callable[[], Tokenizer], length: int, stride: int) -> None:
    text = make().to_str()
    windows = Windower(text, max_length=length, doc_stride=stride).windows("Who's that?", CONTEXT)
    found = [(window.token_ids.tolist(), [tuple(span) for span in window.offsets.tolist()]) for window in windows]
    expected = reference_windows(text, "Who's that?", CONTEXT, length, stride)
    assert found == [(ids, offsets) for ids, _, offsets in expected]


@KINDS
def test_a_window_needs_room_beside_four_special_tokens(make: Callable[[], Tokenizer]) -> None:
    Windower(make().to_str(), max_length=6, doc_stride=0)
    with pytest.raises(InputError, match="leave no room: beside 4 special tokens"):
        Windower(make().to_str(), max_length=5, doc_stride=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [(byte_level_tokenizer, ["It", "'s", " 1810", ","]), (unigram_tokenizer, ["It's", "1810,"])],
)
def test_answers_are_widened_to_the_words_of_the_tokenizer(make: Callable[[], Tokenizer], words: list[str]) -> None:
    """Byte-level splits "it's" and the comma; where spaces alone split, both belong to the word."""
    context = "It's 1810, Ann."
    windower = Windower(make().to_str())
    [window] = windower.windows("When?", context)
    found = []
    for place in range(len(window.offsets)):
        logits = np.full(window.length, -20, dtype=np.float32)
        logits[window.context_start + place] = 20
        [answer] = pipeline_answers(context, [window], [(logits, logits)])
        found.append(answer.text)
    assert list(dict.fromkeys(found))[: len(words)] == [word.strip() for word in words]


def test_other_layouts_are_refused(default_tokenizer_json: str) -> None:
    stored = json.loads(default_tokenizer_json)
    pair = stored["post_processor"]["pair"]
    for broken in (pair[1:], pair[:-1], [*pair, pair[-1]], [*pair[:2], *pair[3:]]):
        changed = stored | {"post_processor": stored["post_processor"] | {"pair": broken}}
        with pytest.raises(InputError, match="joins a question and a context as"):
            Windower(json.dumps(changed))
    types = [{kind: {**part, "type_id": 1}} for entry in pair for kind, part in entry.items()]
    changed = stored | {"post_processor": stored["post_processor"] | {"pair": types}}
    with pytest.raises(InputError, match="token types .* 0 for the question and 0 or 1 for the context"):
        Windower(json.dumps(changed))
