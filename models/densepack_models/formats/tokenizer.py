"""The tokenizer of a checkpoint as the text of a tokenizer.json, built from older files where they are all there is.

transformers makes BERT's words by the settings of tokenizer_config.json, BERT's own defaults where it says nothing,
whatever tokenizer.json says; only a class that is not BERT's takes tokenizer.json as it is. So it is here, since other
tokens are other answers, and a note says where the files disagree.

Byte-level tokenizers likewise have their spaces by tokenizer_config.json. Older files are vocab.txt, vocab.json with
merges.txt, and sentencepiece.bpe.model, which a converter of transformers reads.

tokenizer_json, notes = read_tokenizer(folder, vocab_size=30522)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from reprlib import repr as shortened
from types import SimpleNamespace
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from densepack_models.families import FAMILIES
from densepack_models.formats.json_files import read_json_object
from densepack_runtime.errors import CheckpointError, InputError, joined
from densepack_runtime.host.strict_json import read_small
from densepack_runtime.question_answering.pair_format import PairFormat, load_tokenizer
from densepack_runtime.structure import Structure

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
# The same for byte-level BPE: special tokens, and what tokenizer_config.json says on spaces.
BYTE_LEVEL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
SPACE_SETTINGS = {"add_prefix_space": False, "trim_offsets": True}
# What of each part of a byte-level tokenizer these settings decide.
_SPACES = {"pre_tokenizer": ("add_prefix_space",), "post_processor": ("add_prefix_space", "trim_offsets")}
# BERT's own limit: a longer run of characters without a space is one unknown token.
_LONGEST_WORD = 100
# How an added token is found in a text (tokenizers.AddedToken).
_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# No id of a token has more.
_DIGITS = 9
SENTENCEPIECE = "sentencepiece.bpe.model"
# All that is read here, of whichever form a repository has.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    SENTENCEPIECE,
)
_ANY_CLASS = ""  # where nothing names one, the files decide


def read_tokenizer(
    folder: Path, vocab_size: int, *, tokenizer_class: object = None, packed: bool = False, sentencepiece: str = ""
) -> tuple[str, tuple[str, ...]]:
    """The text of a tokenizer.json, and notes on what had to be decided. Raises CheckpointError.

    `vocab_size` is the number of word embeddings: a tokenizer with higher ids does not belong to the model.
    `tokenizer_class` is what config.json says; it counts where tokenizer_config.json names none. In a `packed`
    checkpoint tokenizer.json says all. `sentencepiece` is the family's converter (see families/family.py).
    """
    settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        name = None if packed else settings.get("tokenizer_class") or tokenizer_class or _ANY_CLASS
        text, notes = _stored(folder / "tokenizer.json", name, settings)
    elif (folder / "vocab.txt").is_file():
        text, notes = _build(folder, settings)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        text, notes = _build_byte_level(folder, settings), ()
    elif sentencepiece and (folder / SENTENCEPIECE).is_file():
        text, notes = _convert_sentencepiece(folder, sentencepiece, settings), ()
    else:
        forms = ["tokenizer.json", "vocab.txt with tokenizer_config.json", "vocab.json with merges.txt"]
        forms += [SENTENCEPIECE] if sentencepiece else []
        raise CheckpointError(f"no tokenizer in {folder}: {', '.join(forms[:-1])}, or {forms[-1]} is needed")
    highest = max(_load(text, folder).get_vocab().values(), default=-1)
    if highest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has ids up to {highest}, and the model has {vocab_size} word embeddings: "
            "it is the tokenizer of another model"
        )
    return text, notes


def check_layout(tokenizer_json: str, structure: Structure) -> None:
    """Raise CheckpointError where the tokenizer joins or pads pairs otherwise than the model reads them."""
    try:
        pair = PairFormat.of(load_tokenizer(tokenizer_json))
    except InputError as error:
        raise CheckpointError(f"the tokenizer does not belong to the model: {error}") from error
    if structure.token_types == "fed" and pair.context_type != 1:
        raise CheckpointError(
            "the tokenizer gives a question and its context the same token type, and the model tells them apart by "
            "types 0 and 1: take the tokenizer that the model was trained with"
        )
    if structure.position_pad_id not in (None, pair.pad):
        raise CheckpointError(
            f"the tokenizer pads with id {pair.pad}, and the model counts the positions of tokens other than "
            f"{structure.position_pad_id}: pad_token_id of config.json and the tokenizer must agree"
        )


def _follows_settings(tokenizer_class: object) -> bool:
    """Whether transformers makes words and spaces as tokenizer_config.json says, whatever tokenizer.json says."""
    name = str(tokenizer_class).removesuffix("Fast")
    return tokenizer_class == _ANY_CLASS or any(name in family.tokenizer_classes for family in FAMILIES)


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


def _stored(path: Path, tokenizer_class: object, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """tokenizer.json with words or spaces made by the settings where the class follows them; else to the byte."""
    text = _read_text(path)
    model = _load(text, path).model
    if isinstance(model, WordPiece) and _follows_settings(tokenizer_class):
        return _with_words(text, path, settings)
    if isinstance(model, BPE) and _follows_settings(tokenizer_class):
        return _with_spaces(text, path, settings)
    return text, ()


def _with_spaces(text: str, path: Path, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A byte-level tokenizer.json whose spaces are as the settings say."""
    stored, said = json.loads(text), _spaces(path.parent, settings)
    if (stored["pre_tokenizer"] or {}).get("type") != "ByteLevel":
        return text, ()
    differing: dict[str, bool] = {}
    for part, names in _SPACES.items():
        whole = stored[part] or {}
        for state in whole.get("processors", [whole]):
            differing |= {name: said[name] for name in names if state.get(name, said[name]) != said[name]}
            state.update({name: said[name] for name in names if name in state})
    if not differing:
        return text, ()
    changes = ", ".join(f"{name} {json.dumps(value)}" for name, value in differing.items())
    note = (
        f"tokenizer_config.json, with the class's defaults for what it leaves out, says {changes}, and tokenizer.json "
        "otherwise: tokenizer_config.json was followed, as in transformers"
    )
    return Tokenizer.from_str(json.dumps(stored)).to_str(pretty=True), (joined([note]),)


def _spaces(folder: Path, settings: Mapping[str, Any]) -> dict[str, bool]:
    said = SPACE_SETTINGS | {name: settings[name] for name in SPACE_SETTINGS if name in settings}
    faults = [
        f"{name} is {shortened(value)}, true or false is needed"
        for name, value in said.items()
        if not isinstance(value, bool)
    ]
    if faults:
        raise CheckpointError(f"the tokenizer of {folder} cannot be used: {joined(faults)}")
    return said


def _with_words(text: str, path: Path, settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A WordPiece tokenizer.json whose words are made as the settings say."""
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
    _add_tokens(tokenizer, added, settings, folder)
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


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[int, AddedToken], list[str]]:
    """Tokens that were added after the vocabulary was made, by id; and what is wrong with them."""
    first = _optional(folder / "added_tokens.json")
    faults = [
        f"added_tokens.json gives {shortened(token)} {shortened(first[token])} for an id"
        for token in first
        if type(first[token]) is not int
    ]
    special = {_content(token) for name in SPECIAL_TOKENS if (token := settings.get(name))} | {*_extra_tokens(settings)}
    added = {
        number: _added_token({"content": token, "special": token in special})
        for token, number in first.items()
        if type(number) is int
    }
    entries = settings.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        return added, [*faults, f"added_tokens_decoder is {shortened(entries)}, an object is needed"]
    for number, entry in entries.items():
        said = entry if isinstance(entry, Mapping) else {"content": entry}
        if fault := _token_fault(number, said):
            faults.append(fault)
        else:
            added[int(number)] = _added_token(said)
    return added, faults


def _token_fault(number: str, said: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry of added_tokens_decoder."""
    token = said.get("content")
    if not number.isdecimal() or len(number) > _DIGITS or not isinstance(token, str):
        return f"added_tokens_decoder has {shortened(number)} for {shortened(token)}, an id for a text is needed"
    for flag in _TOKEN_FLAGS:
        if not isinstance(said.get(flag, False), bool):
            return f"{flag} of the added token {shortened(token)} is {shortened(said[flag])}, true or false is needed"
    return None


def _added_token(said: Mapping[str, Any]) -> AddedToken:
    """Special tokens are found in the text as it is given, others in the normalised one, unless they say otherwise."""
    flags = {name: said[name] for name in _TOKEN_FLAGS if name in said}
    return AddedToken(said["content"], **{"normalized": not flags.get("special", False), **flags})


def _extra_tokens(settings: Mapping[str, Any]) -> list[str]:
    """Special tokens that have no role."""
    extra = settings.get("additional_special_tokens") or []
    return [_content(token) for token in extra] if isinstance(extra, list) else []


def _add_tokens(
    tokenizer: Tokenizer, added: Mapping[int, AddedToken], settings: Mapping[str, Any], folder: Path
) -> None:
    """Add tokens behind the vocabulary; their ids have to follow on. Raises CheckpointError."""
    for number, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if (found := tokenizer.token_to_id(token.content)) != number:
            raise CheckpointError(
                f"the added token {shortened(token.content)} should have id {number} and gets {found} in {folder}"
            )
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_special_tokens([token for token in _extra_tokens(settings) if token not in known])


# --- vocab.json with merges.txt, and sentencepiece ------------------------------------------------------------------


def _build_byte_level(folder: Path, settings: Mapping[str, Any]) -> str:
    """Byte-level BPE, with the pair <s> question </s></s> context </s>."""
    spaces = _spaces(folder, settings)
    special = {name: _content(settings.get(name) or default) for name, default in BYTE_LEVEL_TOKENS.items()}
    added, faults = _added_tokens(folder, settings)
    try:
        tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception as error:  # bare Exception for files that are damaged
        raise CheckpointError(f"no tokenizer can be built in {folder}: {joined([str(error)])}") from error
    faults += [
        f"{name} {shortened(token)} is not in vocab.json" for name, token in special.items() if _lacks(tokenizer, token)
    ]
    if faults:
        raise CheckpointError(f"no tokenizer can be built in {folder}: {joined(faults)}")
    cls, sep = special["cls_token"], special["sep_token"]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaces["add_prefix_space"])
    tokenizer.decoder = decoders.ByteLevel()
    around = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, sep, "$B", sep],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(**spaces), around])
    _add_special_tokens(tokenizer, special)
    _add_tokens(tokenizer, added, settings, folder)
    return tokenizer.to_str(pretty=True)


def _lacks(tokenizer: Tokenizer, token: str) -> bool:
    return tokenizer.token_to_id(token) is None


def _add_special_tokens(tokenizer: Tokenizer, special: Mapping[str, str]) -> None:
    """Find them in texts, too; a mask takes the space before it along, as in transformers."""
    tokenizer.add_special_tokens(
        [
            AddedToken(token, lstrip=name == "mask_token", normalized=False, special=True)
            for name, token in special.items()
        ]
    )


def _convert_sentencepiece(folder: Path, converter: str, settings: Mapping[str, Any]) -> str:
    """What this converter of transformers makes of the file, with the tokens that were added to it."""
    added, faults = _added_tokens(folder, settings)
    if faults:
        raise CheckpointError(f"no tokenizer can be built in {folder}: {joined(faults)}")
    # Not `from transformers import …`: that gives the function of the same name, once somebody has asked for it.
    converters = import_module("transformers.convert_slow_tokenizer")
    source = SimpleNamespace(vocab_file=str(folder / SENTENCEPIECE))
    try:
        found = getattr(converters, converter)(source)
        places = {token: place for place, (token, _) in enumerate(found.vocab(found.proto))}
        source.convert_tokens_to_ids = places.__getitem__
        tokenizer = found.converted() if found.proto.pieces else None
    except Exception as error:  # of protobuf, of the tokenizers library, and of transformers where protobuf is missing
        raise CheckpointError(f"{folder / SENTENCEPIECE} cannot be converted: {joined([str(error)])}") from error
    if tokenizer is None:
        raise CheckpointError(f"{folder / SENTENCEPIECE} cannot be converted: it has no pieces")
    _add_special_tokens(tokenizer, BYTE_LEVEL_TOKENS)
    # What the converter puts beside the pieces is special, also where it stands for nothing.
    own = [token for token in places if token not in {piece.piece for piece in found.proto.pieces}]
    _add_tokens(tokenizer, added, {"additional_special_tokens": own, **settings}, folder)
    return str(tokenizer.to_str(pretty=True))


def vocabulary_lines(tokenizer_json: str) -> list[str]:
    """The tokens of a WordPiece tokenizer.json by id, as vocab.txt lists them. Raises CheckpointError for gaps."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise CheckpointError(f"the tokenizer's ids are not 0 to {len(by_id) - 1} without gaps: it has no vocab.txt")
    return [by_id[number] for number in range(len(by_id))]


def is_wordpiece(tokenizer_json: str) -> bool:
    """Whether older tools can read the tokenizer from vocab.txt."""
    return isinstance(Tokenizer.from_str(tokenizer_json).model, WordPiece)


def finished_tokenizer_config(tokenizer_json: str, max_length: int) -> dict[str, Any]:
    """The contents of tokenizer_config.json by which transformers takes a tokenizer.json of any kind as it is."""
    tokenizer = load_tokenizer(tokenizer_json)
    pair = PairFormat.of(tokenizer)
    cls, sep = tokenizer.id_to_token(int(pair.prefix[0])), tokenizer.id_to_token(int(pair.suffix[0]))
    words = {"bos_token": cls, "cls_token": cls, "eos_token": sep, "sep_token": sep}
    for name in ("pad_token", "unk_token", "mask_token"):
        found = [token for token in (SPECIAL_TOKENS[name], BYTE_LEVEL_TOKENS[name]) if not _lacks(tokenizer, token)]
        words |= {name: found[0]} if found else {}
    splitter = json.loads(tokenizer_json).get("pre_tokenizer") or {}
    # The class sets this one, to false where the file does not name it.
    space = {"add_prefix_space": splitter["add_prefix_space"]} if "add_prefix_space" in splitter else {}
    return {
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **space,
        **words,
    }


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
