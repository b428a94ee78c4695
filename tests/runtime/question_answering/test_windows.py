"""Windows are those of transformers' tokenizers, offsets those of the original string, and bad texts are refused."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import densepack_runtime.question_answering.windows as windows_module
from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path
from densepack_runtime.question_answering.windows import PAIRS_AT_ONCE, Windower, _Tokens
from densepack_runtime.sessions.session import Window

SQUAD_WINDOWS, SQUAD_TOKENS = 10_784, 1_897_568
# Tokenising 100,000 words takes well under a second; the limit is for a loaded machine.
LONG_CONTEXT_SECONDS = 20


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    return Windower(default_tokenizer_json)


def reference_windows(
    tokenizer_json: str, question: str, context: str, max_length: int, stride: int
) -> list[tuple[list[int], list[int], list[tuple[int, int]]]]:
    """The tokenizers library's own overflow: ids, token types and offsets of the context tokens of every window."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, stride=stride, strategy="only_second")
    first = tokenizer.encode(question, context)
    found = []
    for encoding in (first, *first.overflowing):
        inside = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        found.append((encoding.ids, encoding.type_ids, [encoding.offsets[place] for place in inside]))
    return found


def shown(window: Window) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    types = [int(place >= window.context_start) for place in range(window.length)]
    return window.token_ids.tolist(), types, [(start, end) for start, end in window.offsets.tolist()]


@pytest.mark.shared
def test_squad_makes_the_known_windows(shared_data: Path, windower: Windower) -> None:
    dataset = read_squad(shared_data / "squad" / "dev-v1.1.json")
    groups = list(windower.windows_of((question.question, question.context) for question in dataset.questions))
    windows = [window for group in groups for window in group]
    assert len(windows) == SQUAD_WINDOWS
    assert sum(window.length for window in windows) == SQUAD_TOKENS
    assert [group[0].example for group in groups] == list(range(len(dataset.questions)))


@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (64, 16), (40, 0)])
def test_windows_are_those_of_the_tokenizers_library(default_tokenizer_json: str, max_length: int, stride: int) -> None:
    windower = Windower(default_tokenizer_json, max_length=max_length, doc_stride=stride)
    for question in read_squad(sample_squad_path()).questions[::7]:
        expected = reference_windows(default_tokenizer_json, question.question, question.context, max_length, stride)
        assert [shown(window) for window in windower.windows(question.question, question.context)] == expected


@settings(max_examples=50, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["Ångström", "naïve", "東京", "a", "🎹", "unbelievable", "1849", "שלום", "e\u0301t", "."]),
        min_size=1,
        max_size=80,
    ),
    room=st.integers(20, 60),
    stride=st.integers(0, 8),
)
def test_any_text_is_cut_like_the_library_cuts_it(
    default_tokenizer_json: str, words: list[str], room: int, stride: int
) -> None:
    context = " ".join(words)
    windower = Windower(default_tokenizer_json, max_length=room, doc_stride=stride)
    found = [shown(window) for window in windower.windows("What is it?", context)]
    assert found == reference_windows(default_tokenizer_json, "What is it?", context, room, stride)


def test_offsets_point_into_the_original_string(windower: Windower) -> None:
    context = "𝄞 Frédéric 🎼🎼 e\u0301tude 東京 naïve"
    [window] = windower.windows("Who?", context)
    pieces = [context[start:end] for start, end in window.offsets.tolist()]
    assert pieces[:2] == ["𝄞", "Frédéric"]
    assert {"東", "京", "naïve"} <= set(pieces)
    assert "".join(pieces).replace(" ", "") == context.replace(" ", "")


def test_every_window_but_the_last_is_full_and_overlaps(default_tokenizer_json: str) -> None:
    windower = Windower(default_tokenizer_json, max_length=50, doc_stride=10)
    windows = windower.windows("What is it?", "word " * 200)
    assert all(window.length == 50 for window in windows[:-1])
    for left, right in itertools.pairwise(windows):
        assert left.first_token + len(left.offsets) - right.first_token == 10
    assert windows[-1].first_token + len(windows[-1].offsets) == 200


def test_case_does_not_matter_to_an_uncased_tokenizer(windower: Windower) -> None:
    [upper], [lower] = windower.windows("ENGLISH?", "English"), windower.windows("english?", "english")
    assert upper.token_ids.tolist() == lower.token_ids.tolist()
    assert upper.offsets.tolist() == lower.offsets.tolist()


def test_truncation_and_padding_of_the_file_are_switched_off(default_tokenizer_json: str) -> None:
    data = json.loads(default_tokenizer_json)
    assert data["truncation"] is not None, "the embedded tokenizer is the test case: it asks for truncation to 128"
    assert Windower(default_tokenizer_json).windows("Who?", "word " * 200)[0].length > 128


def test_a_stream_equals_one_by_one(windower: Windower) -> None:
    pairs = [(question.question, question.context) for question in read_squad(sample_squad_path()).questions]
    for (question, context), group in zip(pairs, windower.windows_of(iter(pairs)), strict=True):
        alone = windower.windows(question, context, example=group[0].example)
        assert [shown(window) for window in alone] == [shown(window) for window in group]
        assert [window.example for window in alone] == [window.example for window in group]


def test_a_stream_is_read_as_it_is_consumed(windower: Windower) -> None:
    read = 0

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield ("Who?", f"Number {read}.")

    assert len(list(itertools.islice(windower.windows_of(endless()), 10))) == 10
    assert read < 200


def test_a_very_long_context_works(windower: Windower) -> None:
    context = "the quick brown fox jumps over the lazy dog today " * 10_000
    start = time.perf_counter()
    windows = windower.windows("What jumps?", context)
    assert time.perf_counter() - start < LONG_CONTEXT_SECONDS
    assert windows[-1].offsets[-1, 1] == len(context.rstrip())
    assert windows[-1].first_token + len(windows[-1].offsets) == 100_000


@pytest.mark.parametrize("name", ["question", "context"])
@pytest.mark.parametrize("text", ["", "   ", "\u200b\x00"])
def test_empty_texts_are_refused(windower: Windower, name: str, text: str) -> None:
    texts = {"question": "Who?", "context": "A dog.", name: text}
    with pytest.raises(InputError, match=f"the {name} is empty"):
        windower.windows(texts["question"], texts["context"])


@pytest.mark.parametrize("name", ["question", "context"])
def test_a_lone_surrogate_is_refused_with_its_place(windower: Windower, name: str) -> None:
    texts = {"question": "Who?", "context": "A dog.", name: "abc \udc80"}
    with pytest.raises(InputError, match=f"the {name} is not valid Unicode.*character 4"):
        windower.windows(texts["question"], texts["context"])


def test_right_to_left_text_works(windower: Windower) -> None:
    context = "العاصمة هي القاهرة."
    [window] = windower.windows("ما هي العاصمة؟", context)
    assert window.offsets[-1].tolist() == [len(context) - 1, len(context)]


def test_an_over_long_question_is_never_cut_silently(windower: Windower) -> None:
    question, context = "why " * 400, "because " * 400
    with pytest.raises(InputError, match="the question has 400 tokens; beside this context at most 252 fit"):
        windower.windows(question, context)
    windows = windower.windows(question, context, truncate_question=True)
    assert windows[0].context_start == 221 + 2  # 384 less 3 special tokens, 128 of overlap and an advance of 32
    assert windows[1].first_token == 32


def test_the_longest_question_that_fits_is_not_cut(default_tokenizer_json: str, windower: Windower) -> None:
    """Beside a long context the library needs room for its overlap and one new token; beside a short one, for that."""
    for question, context in (("why " * 252, "because " * 400), ("why " * 379, "Because.")):
        expected = reference_windows(default_tokenizer_json, question, context, 384, 128)
        for truncate in (False, True):
            windows = windower.windows(question, context, truncate_question=truncate)
            assert [shown(window) for window in windows] == expected
        with pytest.raises(InputError, match="at most"):
            windower.windows(question + "why", context)


@pytest.mark.parametrize("max_length", range(10, 30))
@pytest.mark.parametrize("context_words", [1, 4, 5, 6, 7, 40])
def test_a_question_that_is_cut_leaves_a_context_that_is_whole(
    default_tokenizer_json: str, max_length: int, context_words: int
) -> None:
    windower = Windower(default_tokenizer_json, max_length=max_length, doc_stride=5)
    windows = windower.windows("why " * 50, "because " * context_words, truncate_question=True)
    covered = {window.first_token + place for window in windows for place in range(len(window.offsets))}
    assert covered == set(range(context_words))
    assert all(window.context_start > 2 and window.length <= max_length for window in windows)


def test_errors_keep_their_place_in_a_stream(windower: Windower) -> None:
    found = list(windower.windows_or_errors([("Who?", "A dog."), ("", "A dog."), ("Who?", "A cat.")]))
    assert [isinstance(result, InputError) for result in found] == [False, True, False]
    assert not isinstance(found[2], InputError)
    assert found[2][0].example == 2


def test_a_context_is_tokenised_once_when_questions_share_it(
    windower: Windower, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    tokenise = windower._tokenise

    def recorded(texts: set[str]) -> dict[str, _Tokens | InputError | None]:
        seen.extend(texts)
        return tokenise(texts)

    monkeypatch.setattr(windower, "_tokenise", recorded)
    pairs = [(f"Question {number}?", "One context.") for number in range(2 * PAIRS_AT_ONCE + 1)]
    assert len(list(windower.windows_of(pairs))) == len(pairs)
    assert seen.count("One context.") == 1


def test_long_contexts_are_tokenised_in_smaller_groups(windower: Windower, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    tokenise = windower._tokenise

    def measured(texts: set[str]) -> dict[str, _Tokens | InputError | None]:
        sizes.append(sum(map(len, texts)))
        return tokenise(texts)

    monkeypatch.setattr(windower, "_tokenise", measured)
    monkeypatch.setattr(windows_module, "CHARACTERS_AT_ONCE", 1000)
    contexts = [f"{number} " + "word " * 80 for number in range(20)]
    assert len(list(windower.windows_of(("Who?", context) for context in contexts))) == 20
    assert max(sizes) < 1000 + len(contexts[-1]) + len("Who?")


def test_errors_among_the_pairs_are_passed_on(windower: Windower) -> None:
    broken = InputError("line 2 is not JSON")
    found = list(windower.windows_or_errors([("Who?", "A dog."), broken, ("Who?", "A cat.")]))
    assert found[1] is broken
    assert not isinstance(found[2], InputError)
    assert found[2][0].example == 2


@pytest.mark.parametrize("pair", [("Who?", None), ("Who?", ["A dog."]), ("Who?",), "Who", {"question": "Who?"}])
def test_what_is_no_pair_of_strings_is_refused(windower: Windower, pair: Any) -> None:
    with pytest.raises(InputError, match="must be a pair of strings"):
        list(windower.windows_of([pair]))


@pytest.mark.parametrize(("length", "stride"), [(4, 0), (384, 380), (100, -1)])
def test_impossible_window_sizes_are_refused(default_tokenizer_json: str, length: int, stride: int) -> None:
    with pytest.raises(InputError, match="leave no room"):
        Windower(default_tokenizer_json, max_length=length, doc_stride=stride)


def test_a_file_that_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Windower('{"model": 1}')


def test_reading_a_tokenizer_file(tmp_path: Path, default_checkpoint: Path) -> None:
    windower = Windower.from_file(default_checkpoint / "tokenizer.json", max_length=64, doc_stride=16)
    assert max(window.length for window in windower.windows("Who?", "word " * 100)) == 64
    with pytest.raises(InputError, match=r"none.json cannot be read"):
        Windower.from_file(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"latin.json cannot be read"):
        Windower.from_file(tmp_path / "latin.json")


def test_a_tokenizer_that_joins_pairs_without_special_tokens_is_refused(default_tokenizer_json: str) -> None:
    data = json.loads(default_tokenizer_json)
    data["post_processor"] = None
    with pytest.raises(InputError, match="joins a question and a context as 'q+c+'"):
        Windower(json.dumps(data))


def test_words_of_tokens(windower: Windower) -> None:
    [window] = windower.windows("Who?", "unbelievableness ##x")
    assert window.words.dtype == np.int32
    assert window.words[1] == window.words[0] == 0
    assert np.diff(window.words[-4:]).tolist() == [1, 1, 1]  # "#", "#", "x" in the text are words of their own


def test_a_tokenizer_with_an_id_that_no_model_has(default_tokenizer_json: str) -> None:
    """A table by id would take 4 GiB."""
    stored = json.loads(default_tokenizer_json)
    stored["model"]["vocab"]["[unused1]"] = 2**32 - 1
    with pytest.raises(InputError, match="ids up to 4,294,967,295, and no model has so many words"):
        Windower(json.dumps(stored))


class PanicException(BaseException):
    """As pyo3 raises it for a panic of Rust: no Exception."""


class Panicking:
    """A tokenizer that panics, or raises what the library raises, for some texts."""

    def __init__(self, tokenizer: Any, error: BaseException) -> None:
        self._tokenizer, self._error = tokenizer, error

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        if any("boom" in text for text in texts):
            raise self._error
        return self._tokenizer.encode_batch(texts, **options)


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), Exception("index out of bounds")])
def test_a_text_on_which_the_tokenizer_fails_is_an_error_in_its_place(
    default_tokenizer_json: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    windower = Windower(default_tokenizer_json)
    wanted = list(windower.windows_of([("Who?", "A dog."), ("Who?", "A cat.")]))
    monkeypatch.setattr(windower, "_tokenizer", Panicking(windower._tokenizer, error))
    pairs = [("Who?", "A dog."), ("Who?", "boom"), ("boom?", "\ud800"), ("Who?", "A cat.")]
    first, second, third, last = windower.windows_or_errors(pairs)
    for found, [window] in zip((first, last), wanted, strict=True):
        assert not isinstance(found, InputError)
        assert np.array_equal(found[0].token_ids, window.token_ids)
    assert isinstance(second, InputError)
    assert "the context cannot be split into tokens ('boom'): " in str(second)
    assert "index out of bounds" in str(second)
    assert isinstance(third, InputError)
    assert "the question cannot be split" in str(third)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_whoever_stops_a_stream_is_not_taken_for_a_panic(
    default_tokenizer_json: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    windower = Windower(default_tokenizer_json)
    monkeypatch.setattr(windower, "_tokenizer", Panicking(windower._tokenizer, error))
    with pytest.raises(type(error)):
        list(windower.windows_or_errors([("Who?", "boom")]))
