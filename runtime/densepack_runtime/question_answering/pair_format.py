"""How a question and a context are joined for a tokenizer: which special tokens stand where.

[CLS] question [SEP] context [SEP] with some, <s> question </s></s> context </s> with others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import InputError, joined
from densepack_runtime.structure import SIZES

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PADDING = ("[PAD]", "<pad>")
# A letter, and a dash three letters wide, which no vocabulary is likely to have: some tokenizers drop what they do not
# know.
_PROBE = "a \u2e3b"


@dataclass(frozen=True, slots=True)
class PairFormat:
    """Ids of the special tokens: `prefix` (one) before the question, `middle` (one or more) behind it, `suffix` (one)
    behind the context, int32. `pad` fills batches, 0 where the tokenizer has no such token. `context_type` is the token
    type of the context and all behind it; before it, it is 0.
    """

    prefix: NDArray[np.int32]
    middle: NDArray[np.int32]
    suffix: NDArray[np.int32]
    pad: int
    context_type: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairFormat:
        """Read off an encoded pair. Raises InputError when it is joined in no way that is known here."""
        highest = max(tokenizer.get_vocab().values(), default=0)
        if highest >= SIZES["vocab_size"][1]:
            raise InputError(f"the tokenizer has ids up to {highest:,}, and no model has so many words")
        with tokenizer_errors("the tokenizer cannot be used"):
            probe = tokenizer.encode(_PROBE, _PROBE)
        places = _special_places(probe)
        context_type = probe.type_ids[-1]
        behind = len(probe.ids) - places[1].stop
        types = [0] * places[1].stop + [context_type] * behind
        if probe.type_ids != types or context_type not in (0, 1):
            raise InputError(
                f"the tokenizer gives a pair the token types {probe.type_ids}: 0 for the question and 0 or 1 for the "
                "context are needed"
            )
        prefix, middle, suffix = (np.array(probe.ids[place], dtype=np.int32) for place in places)
        pads = [pad for token in PADDING if (pad := tokenizer.token_to_id(token)) is not None]
        return cls(prefix, middle, suffix, pads[0] if pads else 0, context_type)

    @property
    def special_tokens(self) -> int:
        """How many a window has."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


def _special_places(probe: Encoding) -> tuple[slice, slice, slice]:
    """Where the special tokens of an encoded pair are: before the question, between the two, and behind the context."""
    shape = "".join("s" if text is None else "qc"[text] for text in probe.sequence_ids)
    found = re.fullmatch("(s)q+(s+)c+(s)", shape)
    if found is None:
        raise InputError(
            f"the tokenizer joins a question and a context as {shape!r} (s for special tokens): one special token "
            "before the question, some between, and one behind the context are needed"
        )
    first, second, third = (slice(*found.span(group)) for group in (1, 2, 3))
    return first, second, third


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
        tokenizer.encode("", _PROBE)  # special tokens that are missing show only when they are needed
    return tokenizer
