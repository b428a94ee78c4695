"""The tokenizer of a checkpoint as the text of a tokenizer.json, built from vocab.txt where that is all there is.

tokenizer_json = read_tokenizer(folder, vocab_size=30522)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# BERT's own limit: a longer run of characters without a space is one unknown token.
_LONGEST_WORD = 100


def read_tokenizer(folder: Path, vocab_size: int) -> str:
    """The text of tokenizer.json, or of one built from vocab.txt and its settings. Raises CheckpointError.

    `vocab_size` is the number of word embeddings: a tokenizer with higher ids does not belong to the model.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        text = _read_text(path)
        tokenizer = _parse(text, path)
    elif (folder / "vocab.txt").is_file():
        tokenizer = _build(folder)
        text = tokenizer.to_str(pretty=True)
    else:
        raise CheckpointError(
            f"no tokenizer in {folder}: tokenizer.json, or vocab.txt with tokenizer_config.json, is needed"
        )
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has ids up to {highest}, and the model has {vocab_size} word embeddings: "
            "it is the tokenizer of another model"
        )
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _parse(text: str, path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from error


def _build(folder: Path) -> Tokenizer:
    """BERT's WordPiece tokenizer as vocab.txt, tokenizer_config.json and special_tokens_map.json describe it."""
    vocabulary = read_vocabulary(folder / "vocab.txt")
    settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
    special = {name: _content(settings.get(name) or default) for name, default in SPECIAL_TOKENS.items()}
    if special["mask_token"] not in vocabulary:  # answering questions needs all but this one
        del special["mask_token"]
    faults = [f"{name} {token!r} is not in vocab.txt" for name, token in special.items() if token not in vocabulary]
    faults += _setting_faults(settings)
    if "do_lower_case" not in settings and any(token[:1].isupper() for token in vocabulary):
        faults.append("vocab.txt has words with capitals, and nothing says whether to lower-case (do_lower_case)")
    if faults:
        raise CheckpointError(f"no tokenizer can be built in {folder}: {'; '.join(faults)}")
    tokenizer = wordpiece_tokenizer(vocabulary, special, settings)
    _add_tokens(tokenizer, folder, settings)
    return tokenizer


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


def _setting_faults(settings: Mapping[str, Any]) -> list[str]:
    faults = []
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "do_basic_tokenize"):
        if not isinstance(settings.get(name), bool | None):
            faults.append(f"{name} is {settings[name]!r}, true, false or null is needed")
    if settings.get("do_basic_tokenize") is False:
        faults.append("do_basic_tokenize is false: only BERT's own splitting into words is supported")
    if settings.get("never_split"):
        faults.append(f"never_split is {settings['never_split']!r}: it is not supported")
    return faults


def wordpiece_tokenizer(
    vocabulary: Mapping[str, int], special: Mapping[str, str], settings: Mapping[str, Any]
) -> Tokenizer:
    """BERT's tokenizer. `special` has the names of SPECIAL_TOKENS, `settings` the switches of tokenizer_config.json."""
    cls, sep = special["cls_token"], special["sep_token"]
    chinese = settings.get("tokenize_chinese_chars")
    lower = settings.get("do_lower_case")
    model = WordPiece(dict(vocabulary), unk_token=special["unk_token"], max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese is not False,
        strip_accents=settings.get("strip_accents"),
        lowercase=lower is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special.values()])
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any]) -> None:
    """Tokens that were added after vocab.txt was made; their ids have to follow on."""
    added = _optional(folder / "added_tokens.json")
    entries = settings.get("added_tokens_decoder")
    if isinstance(entries, Mapping):
        added |= {_content(entry): int(number) for number, entry in entries.items()}
    for token, number in sorted(added.items(), key=lambda item: item[1]):
        if tokenizer.token_to_id(token) is None:
            tokenizer.add_tokens([AddedToken(token)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(
                f"the added token {token!r} should have id {number} and gets {tokenizer.token_to_id(token)} in {folder}"
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
