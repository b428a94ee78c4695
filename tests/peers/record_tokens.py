"""Record the tokens that transformers 4.57 makes of texts with the tokenizers of older repositories.

Runs in an environment of its own (see README.md beside this file):

    python tests/peers/record_tokens.py FOLDER tests/peers/results/tokens.json

FOLDER holds what `old_repositories.py` wrote. Recorded are ids, offsets, words and token types of pairs of texts.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from provenance import provenance
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import import_utils, sentencepiece_model_pb2_new

TEXTS = (
    "Frédéric Chopin's naïve études: cafe\u0301 Zoe\u0308, ÅNGSTRÖM",
    "She played 🎹🎼, then the 𝄞 organ; 👩‍👩‍👧 listened.",
    "東京 is the capital。駅は東京の中央にあり、",
    "13\u00a0960\u00a0000 km,\u2009thin\u3000wide\u202fnarrow",
    "  \tspaces at both  ends \n\n ",
    "a [SEP] b [MASK] c </s> d <mask> e<s>f <pad>[UNK] <unk> [CLS]x [sep] ＜mask＞ <s>NOTUSED",
    "an <entity>, an<entity>x, an <ENTITY> and two words, Two  words, twowords",
    "co\u00adcoa\u200b \ufb01ne İbrahim STRASSE straße ﬃ ①½",
    "\x00 control\x07 \ufffd \ufeff\r\nend",
    "",
    "who?",
    "x" * 120 + " " + "unbelievably" * 3,
    "It's 5:30p.m., $1,234.56 (don't) co-operate/e.g. #hash @you__ ...",
    "מתי הוקם המגדלור؟ متى افتتحت हिन्दी ไทย 한국어",
)
# Far beyond what a model reads in one window.
LONG = " ".join(
    f"In year {year} Chopin was born near Warsaw, and it's said that he played études." for year in range(60)
)


class Pieces:
    """All that transformers asks the sentencepiece package for when it converts a model: its pieces by number."""

    def __init__(self, **_: Any) -> None:
        self.proto = sentencepiece_model_pb2_new.ModelProto()

    def Load(self, path: str) -> None:  # noqa: N802 (the package's own name)
        self.proto.ParseFromString(Path(path).read_bytes())

    def __len__(self) -> int:
        return len(self.proto.pieces)

    def PieceToId(self, piece: str) -> int:  # noqa: N802
        found = [number for number, one in enumerate(self.proto.pieces) if one.piece == piece]
        return found[0] if found else self.proto.trainer_spec.unk_id

    def IdToPiece(self, number: int) -> str:  # noqa: N802
        return str(self.proto.pieces[number].piece)


def stand_in_for_sentencepiece() -> None:
    """The fast tokenizer is transformers' own conversion; the package behind the slow one need not be there."""
    if find_spec("sentencepiece") is None:
        sys.modules["sentencepiece"] = module = ModuleType("sentencepiece")
        module.SentencePieceProcessor = Pieces
        module.sentencepiece_model_pb2 = sentencepiece_model_pb2_new
        import_utils._sentencepiece_available = True


def encoded(tokenizer: PreTrainedTokenizerFast, question: str, context: str) -> dict[str, list[Any]]:
    """Offsets one after the other: begin, end, begin, end, …"""
    [encoding] = tokenizer(question, context).encodings
    return {
        "ids": encoding.ids,
        "offsets": [place for pair in encoding.offsets for place in pair],
        "words": encoding.word_ids,
        "types": encoding.type_ids,
    }


def main(folder: str, out: str) -> None:
    stand_in_for_sentencepiece()
    pairs = [(TEXTS[number - 1], text) for number, text in enumerate(TEXTS)]
    repositories = {}
    for path in sorted(Path(folder).iterdir()):
        tokenizer = AutoTokenizer.from_pretrained(path)
        asked = [*pairs, ("Where was Chopin born?", LONG)] if path.name.endswith("-plain") else pairs
        repositories[path.name] = {
            "class": type(tokenizer).__name__,
            "pairs": [{"question": one, "context": two} | encoded(tokenizer, one, two) for one, two in asked],
        }
    document = provenance("transformers", "tokenizers") | {"repositories": repositories}
    Path(out).write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    sys.stderr.write(f"recorded the tokens of {len(repositories)} tokenizers\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
