"""The tokenizer of a checkpoint as the text of a tokenizer.json, built from vocab.txt where that is all there is.

transformers makes BERT's words by the settings of tokenizer_config.json, BERT's own defaults where it says nothing,
whatever tokenizer.json says; only a class that is not BERT's takes tokenizer.json as it is. So it is here, since other
tokens are other answers, and a note says where the files disagree.

tokenizer_json, notes = read_tokenizer(folder, vocab_size=30522)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError, InputError, joined
from densepack_runtime.host.strict_json import read_small
from densepack_runtime.question_answering.pair_format import load_tokenizer

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# What tokenizer_config.json says on words, and what BERT's class takes where it says nothing. Accents that are None
# are stripped where words are lower-cased.
WORD_SETTINGS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
# Values of `tokenizer_class` (with or without "Fast") by which transformers takes BERT's class.
BERT_CLASSES = (
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
)
# BERT's own limit: a longer run of characters without a space is one unknown token.
_LONGEST_WORD = 100
# No id of a token has more.
_DIGITS = 9


def read_tokenizer(
    folder: Path, vocab_size: int, *, tokenizer_class: object = None, packed: bool = False
) -> tuple[str, tuple[str, ...]]:
    """The text of a tokenizer.json, and notes on what had to be decided. Raises CheckpointError.

    `vocab_size` is the number of word embeddings: a tokenizer with higher ids does not belong to the model.
    `tokenizer_class` is what config.json says; it counts where tokenizer_config.json names none. In a `packed`
    checkpoint tokenizer.json says all.
    """
    settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        as_it_is = packed or not _is_of_bert(settings.get("tokenizer_class") or tokenizer_class)
        text, notes = _stored(folder / "tokenizer.json", None if as_it_is else settings)
    elif (folder / "vocab.txt").is_file():
        text, notes = _build(folder, settings)
    else:
        raise CheckpointError(
            f"no tokenizer in {folder}: tokenizer.json, or vocab.txt with tokenizer_config.json, is needed"
        )
    highest = max(_load(text, folder).get_vocab().values(), default=-1)
    if highest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has ids up to {highest}, and the model has {vocab_size} word embeddings: "
            "it is the tokenizer of another model"
        )
    return text, notes


def _is_of_bert(tokenizer_class: object) -> bool:
    return tokenizer_class is None or str(tokenizer_class).removesuffix("Fast") in BERT_CLASSES


def _read_text(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _load(text: str, path: Path) -> Tokenizer:
    try:
        return load_tokenizer(text)
    except InputError as error:
        raise CheckpointError(f"{path} has no tokenizer that can be used: {error}") from error


# --- tokenizer.json ---------------------------------------------------------------------------------------------------


def _stored(path: Path, settings: Mapping[str, Any] | None) -> tuple[str, tuple[str, ...]]:
    """tokenizer.json with words made by the settings; to the byte where they change nothing, or are None."""
    text = _read_text(path)
    stored_tokenizer = _load(text, path)
    if settings is None or not isinstance(stored_tokenizer.model, WordPiece):
        return text, ()
    if faults := _word_faults(settings):
        raise CheckpointError(f"the tokenizer of {path.parent} cannot be used: {joined(faults)}")
    tokenizer = Tokenizer.from_str(text)
    stored = _words(tokenizer)
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(settings), pre_tokenizers.BertPreTokenizer()
    followed = _words(tokenizer)
    differing = [name for name in followed if stored[name] != followed[name]]
    if not differing:
        return text, ()
    first, second = (
        ", ".join(f"{name} {json.dumps(words[name])}" for name in differing) for words in (stored, followed)
    )
    note = (
        f"tokenizer.json says {first}; tokenizer_config.json, with BERT's defaults for what it leaves out, {second}: "
        "tokenizer_config.json was followed, as in transformers"
    )
    return tokenizer.to_str(pretty=True), (joined([note]),)


def _words(tokenizer: Tokenizer) -> dict[str, Any]:
    """How a tokenizer makes words: WORD_SETTINGS with accents decided, and the other steps that it takes."""
    steps = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    normalizer, splitter = ({} if step is None else json.loads(step.__getstate__()) for step in steps)
    lower, accents = (normalizer.pop(name, None) for name in ("lowercase", "strip_accents"))
    return {
        "do_lower_case": lower,
        "strip_accents": lower if accents is None else accents,
        "tokenize_chinese_chars": normalizer.pop("handle_chinese_chars", None),
        "other steps": [normalizer, splitter],
    }


# --- vocab.txt --------------------------------------------------------------------------------------------------------


def _build(folder: Path, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """BERT's WordPiece tokenizer as vocab.txt, tokenizer_config.json and special_tokens_map.json describe it."""
    vocabulary = read_vocabulary(folder / "vocab.txt")
    special = {name: _content(settings.get(name) or default) for name, default in SPECIAL_TOKENS.items()}
    if special["mask_token"] not in vocabulary:  # answering questions needs all but this one
        del special["mask_token"]
    added, faults = _added_tokens(folder, settings)
    faults += [
        f"{name} {shortened(token)} is not in vocab.txt" for name, token in special.items() if token not in vocabulary
    ]
    faults += _word_faults(settings) + _splitting_faults(settings)
    if faults:
        raise CheckpointError(f"no tokenizer can be built in {folder}: {joined(faults)}")
    try:
        tokenizer = wordpiece_tokenizer(vocabulary, special, settings)
    except Exception as error:  # bare Exception for special tokens that its templates cannot name
        raise CheckpointError(f"no tokenizer can be built in {folder}: {joined([str(error)])}") from error
    _add_tokens(tokenizer, added, folder)
    return tokenizer.to_str(pretty=True), tuple(_guesses(vocabulary, special, settings))


def _guesses(vocabulary: Mapping[str, int], special: Mapping[str, str], settings: Mapping[str, Any]) -> Iterator[str]:
    if "do_lower_case" in settings:
        return
    cased = sum(token != token.lower() for token in vocabulary.keys() - {*special.values()})
    lost = (
        f"; {cased:,} words of vocab.txt have capitals and are never found so: a cased model needs "
        '{"do_lower_case": false} in tokenizer_config.json'
    )
    yield "nothing says whether to lower-case (do_lower_case): words are lower-cased, as in transformers" + lost * bool(
        cased
    )


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id: the number of its line."""
    lines = _read_text(path).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return {token: number for number, token in enumerate(lines)}


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path, "") if path.is_file() else {}


def _content(token: object) -> str:
    """The text of a special token, which is stored as such or as an object."""
    return str(token.get("content")) if isinstance(token, Mapping) else str(token)


def _word_faults(settings: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {shortened(settings[name])}, true or false is needed"
        for name, default in WORD_SETTINGS.items()
        if name in settings and not isinstance(settings[name], bool) and (default, settings[name]) != (None, None)
    ]


def _splitting_faults(settings: Mapping[str, Any]) -> list[str]:
    """What the class that transformers had for vocab.txt knew beside it."""
    faults = []
    if settings.get("do_basic_tokenize") not in (None, True):
        faults.append(
            f"do_basic_tokenize is {json.dumps(settings['do_basic_tokenize'])}: only BERT's own splitting is supported"
        )
    if settings.get("never_split"):
        faults.append(f"never_split is {shortened(settings['never_split'])}: it is not supported")
    return faults


def _normalizer(settings: Mapping[str, Any]) -> normalizers.BertNormalizer:
    said = WORD_SETTINGS | {name: settings[name] for name in WORD_SETTINGS if name in settings}
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=said["tokenize_chinese_chars"],
        strip_accents=said["strip_accents"],
        lowercase=said["do_lower_case"],
    )


def wordpiece_tokenizer(
    vocabulary: Mapping[str, int], special: Mapping[str, str], settings: Mapping[str, Any]
) -> Tokenizer:
    """BERT's tokenizer. `special` has the names of SPECIAL_TOKENS, `settings` the switches of tokenizer_config.json."""
    cls, sep = special["cls_token"], special["sep_token"]
    model = WordPiece(dict(vocabulary), unk_token=special["unk_token"], max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special.values()])
    return tokenizer


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Tokens that were added after vocab.txt was made, with their ids; and what is wrong with them."""
    added = _optional(folder / "added_tokens.json")
    faults = [
        f"added_tokens.json gives {shortened(token)} {shortened(added[token])} for an id"
        for token in added
        if type(added[token]) is not int
    ]
    entries = settings.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        return added, [*faults, f"added_tokens_decoder is {shortened(entries)}, an object is needed"]
    for number, entry in entries.items():
        token = entry.get("content") if isinstance(entry, Mapping) else entry
        if not number.isdecimal() or len(number) > _DIGITS or not isinstance(token, str):
            faults.append(
                f"added_tokens_decoder has {shortened(number)} for {shortened(token)}, an id for a text is needed"
            )
        else:
            added[token] = int(number)
    return added, faults


def _add_tokens(tokenizer: Tokenizer, added: Mapping[str, int], folder: Path) -> None:
    """Add tokens behind the vocabulary; their ids have to follow on. Raises CheckpointError."""
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_tokens([AddedToken(token)])
        if (found := tokenizer.token_to_id(token)) != number:
            raise CheckpointError(
                f"the added token {shortened(token)} should have id {number} and gets {found} in {folder}"
            )


def vocabulary_lines(tokenizer_json: str) -> list[str]:
    """The tokens of a WordPiece tokenizer.json by id, as vocab.txt lists them. Raises CheckpointError for gaps."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise CheckpointError(f"the tokenizer's ids are not 0 to {len(by_id) - 1} without gaps: it has no vocab.txt")
    return [by_id[number] for number in range(len(by_id))]


def tokenizer_config(tokenizer_json: str, max_length: int) -> dict[str, Any]:
    """The contents of tokenizer_config.json that say the same as a BERT tokenizer.json."""
    normalizer = json.loads(tokenizer_json).get("normalizer") or {}
    return {
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "model_max_length": max_length,
        "tokenizer_class": "BertTokenizer",
        **SPECIAL_TOKENS,
    }
