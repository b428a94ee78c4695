"""Windows: one question and one slice of its context, as token ids with character offsets.

A context that does not fit beside its question is cut into windows that overlap by `doc_stride` tokens, exactly as
transformers' tokenizers do it for SQuAD. The question is never cut unless that is asked for.

    windower = Windower(tokenizer_json)                          # 384 tokens, overlapping by 128
    windows = windower.windows("Who is Chopin?", context)        # list[Window]
    for windows in windower.windows_of(pairs): ...               # a stream, one list a pair
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.pair_format import PairFormat, load_tokenizer, tokenizer_errors
from densepack_runtime.question_answering.pairs import Pair, checked_pair, shown
from densepack_runtime.sessions.session import Window

if TYPE_CHECKING:
    from tokenizers import Encoding

MAX_LENGTH = 384
DOC_STRIDE = 128
# Pairs that are tokenised together: enough for the tokenizer's threads, little enough to stay a stream. The tokenizer
# takes about 200 bytes of memory a character while it works (measured), so that long texts come in smaller groups.
PAIRS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 250_000
# A question that has to be cut is cut so far that the windows of a long context advance by this many tokens: cut to the
# last token that fits, it would make a window for every token of the context.
ADVANCE_AFTER_CUT = 32


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A tokenised text: ids int32 [n], character offsets int32 [n, 2] and numbers of words int32 [n]."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    words: NDArray[np.int32]

    @classmethod
    def of(cls, encoding: Encoding) -> _Tokens:
        return cls(
            ids=np.array(encoding.ids, dtype=np.int32),
            offsets=np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2),
            words=np.array(encoding.word_ids, dtype=np.int32),
        )


class Windower:
    """Makes windows with the tokenizer of a checkpoint.

    The truncation and padding that the tokenizer file asks for are switched off: the windows decide. Thread-safe.
    Raises InputError when the tokenizer joins pairs in a way that `PairFormat` does not know.
    """

    def __init__(self, tokenizer_json: str, *, max_length: int = MAX_LENGTH, doc_stride: int = DOC_STRIDE) -> None:
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._format = PairFormat.of(self._tokenizer)
        special = self._format.special_tokens
        if not 0 <= doc_stride <= max_length - special - 2:
            raise InputError(
                f"windows of {max_length} tokens that overlap by {doc_stride} leave no room: beside {special} "
                "special tokens and the overlap, a window needs a token of the question and a new one of the context"
            )
        self.max_length = max_length
        self.doc_stride = doc_stride

    @property
    def pad_id(self) -> int:
        return self._format.pad

    @classmethod
    def from_file(cls, path: str | Path, *, max_length: int = MAX_LENGTH, doc_stride: int = DOC_STRIDE) -> Self:
        """Read the tokenizer from a tokenizer.json. Raises InputError when it cannot be read or used."""
        try:
            tokenizer_json = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the tokenizer file {path} cannot be read: {error}") from error
        return cls(tokenizer_json, max_length=max_length, doc_stride=doc_stride)

    def windows(
        self, question: str, context: str, *, example: int = 0, truncate_question: bool = False
    ) -> list[Window]:
        """All windows of one question. Raises InputError for texts that cannot be used, and for an over-long question.

        `truncate_question` cuts an over-long question instead, and so far that the windows still advance well.
        """
        [windows] = self.windows_of([(question, context)], truncate_question=truncate_question)
        return [replace(window, example=example) for window in windows]

    def windows_of(self, pairs: Iterable[Pair], *, truncate_question: bool = False) -> Iterator[list[Window]]:
        """The windows of each (question, context), in order, `example` counting from 0. Raises like `windows`."""
        for result in self.windows_or_errors(map(checked_pair, pairs), truncate_question=truncate_question):
            if isinstance(result, InputError):
                raise result
            yield result

    def windows_or_errors(
        self, pairs: Iterable[Pair | InputError], *, truncate_question: bool = False
    ) -> Iterator[list[Window] | InputError]:
        """Like `windows_of`, but a pair that cannot be used becomes an InputError in its place.

        An InputError among the pairs (a line that could not be parsed, say) is passed on in its place, too. Reads at
        most `PAIRS_AT_ONCE` pairs ahead.
        """
        example = 0
        texts: dict[str, _Tokens | InputError | None] = {}
        for chunk in _chunks(pairs):
            # Texts of the chunk before stay known, so that a context is tokenised once when questions share it.
            wanted = {text for pair in chunk if not isinstance(pair, InputError) for text in pair}
            texts = {text: texts[text] for text in wanted & texts.keys()} | self._tokenise(wanted - texts.keys())
            for pair in chunk:
                yield (
                    pair
                    if isinstance(pair, InputError)
                    else self._cut_or_error(example, pair, texts, truncate_question=truncate_question)
                )
                example += 1

    def _tokenise(self, texts: set[str]) -> dict[str, _Tokens | InputError | None]:
        """Tokens of each text once, or why the tokenizer failed on it; None for a text that is not valid Unicode."""
        valid = [text for text in texts if _is_unicode(text)]
        try:
            with tokenizer_errors("the tokenizer fails on it"):
                encodings = self._tokenizer.encode_batch(valid, add_special_tokens=False)
        except InputError as error:
            if len(texts) == 1:
                return dict.fromkeys(texts, error)
            return {text: self._tokenise({text})[text] for text in texts}
        found: dict[str, _Tokens | InputError | None] = dict.fromkeys(texts)
        found.update((text, _Tokens.of(encoding)) for text, encoding in zip(valid, encodings, strict=True))
        return found

    def _cut_or_error(
        self, example: int, pair: Pair, texts: dict[str, _Tokens | InputError | None], *, truncate_question: bool
    ) -> list[Window] | InputError:
        question, context = pair
        try:
            tokens = _usable(texts[question], question, "question"), _usable(texts[context], context, "context")
            return self._cut(example, *tokens, truncate_question=truncate_question)
        except InputError as error:
            return error

    def _cut(self, example: int, question: _Tokens, context: _Tokens, *, truncate_question: bool) -> list[Window]:
        total = len(context.ids)
        free = self.max_length - self._format.special_tokens
        ids = question.ids
        # A context that does not fit whole needs room for the overlap and at least one new token a window.
        limit = free - min(total, self.doc_stride + 1)
        if len(ids) > limit:
            if not truncate_question:
                raise InputError(
                    f"the question has {len(ids)} tokens; beside this context at most {limit} fit into a window of "
                    f"{self.max_length}: shorten it, or allow that it is cut"
                )
            advance = min(ADVANCE_AFTER_CUT, (free - self.doc_stride) // 2)
            ids = ids[: free - min(total, self.doc_stride + advance)]
        head = np.concatenate([self._format.prefix, ids, self._format.middle])
        room = free - len(ids)
        starts = [0] if total <= room else range(0, total - self.doc_stride, room - self.doc_stride)
        return [
            Window(
                example=example,
                token_ids=np.concatenate([head, context.ids[start : start + room], self._format.suffix]),
                context_start=len(head),
                offsets=context.offsets[start : start + room],
                first_token=start,
                words=context.words[start : start + room],
            )
            for start in starts
        ]


def _chunks(pairs: Iterable[Pair | InputError]) -> Iterator[list[Pair | InputError]]:
    """The pairs in groups that are tokenised together, bounded by number and by characters of different texts."""
    chunk: list[Pair | InputError] = []
    texts: set[str] = set()
    characters = 0
    for pair in pairs:
        chunk.append(pair)
        if not isinstance(pair, InputError):
            characters += sum(len(text) for text in set(pair) - texts)
            texts.update(pair)
        if len(chunk) == PAIRS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield chunk
            chunk, texts, characters = [], set(), 0
    if chunk:
        yield chunk


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _usable(tokens: _Tokens | InputError | None, text: str, name: str) -> _Tokens:
    if tokens is None:
        place = next(place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff")
        raise InputError(
            f"the {name} is not valid Unicode: a lone surrogate {text[place]!r} at character {place}; decode the text "
            "as UTF-8 before asking"
        )
    if isinstance(tokens, InputError):
        raise InputError(f"the {name} cannot be split into tokens ({shown(text)}): {tokens}") from tokens
    if len(tokens.ids) == 0:
        raise InputError(f"the {name} is empty: it has no words ({text[:40]!r})")
    return tokens
