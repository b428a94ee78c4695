"""How a question and a context are joined for a tokenizer: which special tokens stand where.

[CLS] question [SEP] context [SEP], token types 0 up to the first [SEP] and 1 behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import InputError, joined
from densepack_runtime.structure import SIZES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = 3  # [CLS] question [SEP] context [SEP]
_UNKNOWN = "\u2e3b"  # a dash three letters wide, which no vocabulary is likely to have


@dataclass(frozen=True, slots=True)
class PairFormat:
    """Ids of the special tokens, and by token id whether it continues the word before it, bool [V]."""

    cls: int
    sep: int
    pad: int
    continues_word: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairFormat:
        """Read off an encoded empty pair. Raises InputError when the tokenizer is not one of BERT's."""
        with tokenizer_errors("the tokenizer cannot be used"):
            empty = tokenizer.encode("", "")
        if len(empty.ids) != SPECIAL_TOKENS or empty.ids[1] != empty.ids[2] or empty.type_ids != [0, 0, 1]:
            raise InputError(
                f"the tokenizer is not one of BERT's: an empty pair gives ids {empty.ids} with types "
                f"{empty.type_ids}, and [CLS] [SEP] [SEP] with types [0, 0, 1] is needed"
            )
        return cls(empty.ids[0], empty.ids[1], tokenizer.token_to_id("[PAD]") or 0, _continuations(tokenizer))


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """What the tokenizers library raises (bare Exception, and where it panics, not even that) becomes InputError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {joined([str(error)])}") from error


def load_tokenizer(tokenizer_json: str) -> Tokenizer:
    """The tokenizer without its own truncation and padding. Raises InputError when it cannot be read or used."""
    from tokenizers import Tokenizer

    with tokenizer_errors("the tokenizer file cannot be read"):
        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode("", _UNKNOWN)  # special tokens that are missing show only when they are needed
    return tokenizer


def _continuations(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    vocabulary = tokenizer.get_vocab()
    highest = max(vocabulary.values())
    if highest >= SIZES["vocab_size"][1]:
        raise InputError(f"the tokenizer has ids up to {highest:,}, and no model has so many words")
    table = np.zeros(highest + 1, dtype=np.bool_)
    table[[identity for token, identity in vocabulary.items() if token.startswith("##") and len(token) > 2]] = True
    return table
