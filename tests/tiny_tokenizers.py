"""Tokenizers of every kind that encoders have, made in milliseconds from a few sentences, and always the same."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

SENTENCES = (
    "Frédéric Chopin was born in 1810 in Żelazowa Wola, a village near Warsaw.",
    "It's said that he didn't like crowds; he gave only 30 concerts in public.",
    "Where was Chopin born? What did he play? Who's the composer of the études?",
    "東京 is the capital of Japan, and the population was 13,960,000 in 2021.",
)
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_level_tokenizer() -> Tokenizer:
    """BPE of bytes, as RoBERTa's: <s> question </s></s> context </s>, offsets without the space before a word."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram_tokenizer() -> Tokenizer:
    """Unigram of words that a space begins, as XLM-R's on the hub: token types are 0 throughout."""
    tokenizer = Tokenizer(Unigram(_pieces(), unk_id=SPECIAL.index("<unk>")))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _pieces() -> list[tuple[str, float]]:
    """Beginnings of the words, and characters, likelier the more often; training would draw other scores every time."""
    words = [f"▁{word}" for sentence in SENTENCES for word in sentence.split()]
    found = Counter(word[:end] for word in words for end in (1, 2, 3, 5) if len(word) >= end)
    found.update(character for word in words for character in word)
    whole = found.total()
    return [(token, 0.0) for token in SPECIAL] + [(piece, math.log(n / whole)) for piece, n in sorted(found.items())]


def sentencepiece_model() -> tuple[bytes, int]:
    """A sentencepiece.bpe.model with the same pieces behind <unk>, <s> and </s>, and how many it has."""
    proto = sentencepiece.ModelProto()  # type: ignore[attr-defined]
    proto.trainer_spec.model_type = 1  # unigram
    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in _pieces()[len(SPECIAL) :]:
        proto.pieces.add(piece=piece, score=score, type=1)
    return proto.SerializeToString(), len(proto.pieces)


def word_pieces() -> list[str]:
    """A vocabulary of BERT's kind: words as they are and in lower case, and every character of them."""
    words = {word for sentence in SENTENCES for word in re.findall(r"\w+", sentence)}
    words |= {word.lower() for word in words}
    letters = {*"".join(words), *string.ascii_letters, *string.punctuation}
    return [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted(words | letters),
        *sorted(f"##{one}" for one in letters),
    ]
