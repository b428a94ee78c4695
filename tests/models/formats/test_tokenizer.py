"""Tokenizers: tokenizer.json as it is, or the one that transformers builds from vocab.txt."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizer

from densepack_models.families.bert import BERT
from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import letter_tokenizer
from densepack_models.formats.tokenizer import (
    SPECIAL_TOKENS,
    WORD_SETTINGS,
    read_tokenizer,
    read_vocabulary,
    tokenizer_config,
    vocabulary_lines,
    wordpiece_tokenizer,
)
from densepack_models.formats.writer import write_tokenizer_files
from densepack_runtime.errors import CheckpointError
from densepack_runtime.host.strict_json import LARGEST_BYTES
from tests.command_line import CommandLine
from tests.models.formats.planted_checkpoints import UNEVEN, Planted

TEXTS = (
    "Who is Frédéric Chopin? A Polish composer (1810-1849).",
    "English english ÉCOLE naïve co-operate don't 東京は日本の首都 한국어 עברית",
    "a🙂b \u200b\ufeff tab\tnew\nline \x00 control\x07 [MASK] [SEP]",
    "x" * 101 + " " + "unbelievably",
    "",
)
SETTINGS: list[dict[str, Any]] = [
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
    {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "model_max_length": 512},
]


@pytest.fixture(scope="module")
def vocabulary(default_tokenizer_json: str) -> list[str]:
    return vocabulary_lines(default_tokenizer_json)


def folder_with(folder: Path, vocabulary: list[str], settings: dict[str, Any] | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tokenizer_of(folder: Path, vocab_size: int) -> str:
    text, _ = read_tokenizer(folder, vocab_size)
    return text


def notes_of(folder: Path, vocab_size: int = 40000) -> str:
    _, notes = read_tokenizer(folder, vocab_size)
    return "; ".join(notes)


def fault(folder: Path, vocab_size: int = 40000) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, vocab_size)
    return str(caught.value)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_built_tokenizer_is_that_of_transformers(
    tmp_path: Path, vocabulary: list[str], settings: dict[str, Any]
) -> None:
    folder = folder_with(tmp_path, vocabulary, settings)
    ours = Tokenizer.from_str(tokenizer_of(folder, len(vocabulary)))
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"), **settings)
    for first in TEXTS:
        for second in TEXTS[:-1]:  # transformers takes an empty second text for none
            encoding, expected = ours.encode(first, second), theirs(first, second, return_offsets_mapping=True)
            assert encoding.ids == expected["input_ids"]
            assert encoding.type_ids == expected["token_type_ids"]
            assert [tuple(pair) for pair in expected["offset_mapping"]] == encoding.offsets


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    names = {"unk_token": "<u>", "cls_token": {"content": "<c>", "lstrip": False}, "sep_token": "<s>"}
    names |= {"pad_token": "<p>", "mask_token": "<m>"}
    folder = folder_with(tmp_path, ["<p>", "<u>", "<c>", "<s>", "<m>", "a", "##b"], {"do_lower_case": True})
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = Tokenizer.from_str(tokenizer_of(folder, 7))
    assert tokenizer.encode("AB z", "a").ids == [2, 5, 6, 1, 3, 5, 3]


def test_a_vocabulary_without_mask_token_is_enough(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"], {"do_lower_case": True})
    assert Tokenizer.from_str(tokenizer_of(folder, 5)).encode("a", "A").ids == [2, 4, 3, 4, 3]


def test_added_tokens_follow_the_vocabulary(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    decoder = {"0": {"content": "[PAD]"}, "7": {"content": "<two>"}, "6": {"content": "<one>"}}
    folder = folder_with(tmp_path, words, {"do_lower_case": True, "added_tokens_decoder": decoder})
    assert Tokenizer.from_str(tokenizer_of(folder, 8)).encode("a<two><one>").ids == [2, 5, 7, 6, 3]
    (folder / "added_tokens.json").write_text('{"<three>": 9}')
    assert "the added token '<three>' should have id 9 and gets 8" in fault(folder)


def test_tokenizer_json_is_kept_to_the_byte(tmp_path: Path, default_tokenizer_json: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(default_tokenizer_json.replace("\n", "\r\n").encode())
    (tmp_path / "vocab.txt").write_text("ignored")
    assert tokenizer_of(tmp_path, 30522) == default_tokenizer_json.replace("\n", "\r\n")


def test_vocabulary_lines_are_split_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\na\u2028b\r\n\x85\r\nlast".encode())
    assert read_vocabulary(path) == {"[PAD]": 0, "a\u2028b": 1, "\x85": 2, "last": 3}


def test_files_for_older_tools_say_the_same(tmp_path: Path, default_tokenizer_json: str) -> None:
    write_tokenizer_files(tmp_path, default_tokenizer_json, 512)
    built = Tokenizer.from_str(tokenizer_of(tmp_path, 30522))
    stored = Tokenizer.from_str(default_tokenizer_json)
    stored.no_truncation()
    stored.no_padding()
    for text in TEXTS:
        assert built.encode(text, text).ids == stored.encode(text, text).ids
    assert tokenizer_config(default_tokenizer_json, 512)["do_lower_case"] is True


# --- who decides on words ---

WORDS = [
    *SPECIAL_TOKENS.values(),
    "a",
    "e",
    "é",
    "A",
    "É",
    "##a",
    "##e",
    "##é",
    "东",
    "京",
    "##京",
    "cafe",
    "Café",
    "ﬁ",
]
SAMPLE = "A É aé café Café CAFÉ 东京 a东京 ﬁ ÅÉ"
MISSING = object()
SAID: list[dict[str, Any]] = [
    {name: value for name, value in zip(WORD_SETTINGS, values, strict=True) if value is not MISSING}
    for values in itertools.product((True, False, None, MISSING), repeat=3)
]
STORED: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
]


def checkpoint_with(folder: Path, stored: dict[str, Any], said: dict[str, Any] | None) -> Path:
    """A tokenizer.json that makes words as stored, a tokenizer_config.json that says otherwise, and a config.json."""
    vocabulary = {token: number for number, token in enumerate(WORDS)}
    (folder / "tokenizer.json").write_text(wordpiece_tokenizer(vocabulary, SPECIAL_TOKENS, stored).to_str())
    (folder / "config.json").write_text('{"model_type": "bert"}')
    if said is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_tokenizer_config_is_followed_as_transformers_follows_it(tmp_path: Path, stored: dict[str, Any]) -> None:
    for said in (None, *SAID):
        folder = checkpoint_with(tmp_path, stored, said)
        try:
            expected = AutoTokenizer.from_pretrained(str(folder))(SAMPLE)["input_ids"]
        except TypeError:
            assert "is None, true or false is needed" in fault(folder)
            continue
        assert Tokenizer.from_str(tokenizer_of(folder, 100)).encode(SAMPLE).ids == expected, said


# Of the families with WordPiece.
FOLLOWING = [name for family in (BERT, DISTILBERT, ELECTRA) for name in family.tokenizer_classes]


@pytest.mark.parametrize("fast", ["", "Fast"])
@pytest.mark.parametrize("name", [*FOLLOWING, "PreTrainedTokenizer", "TokenizersBackend", "NobodyKnowsTokenizer"])
def test_the_class_decides_which_file_counts_as_in_transformers(tmp_path: Path, name: str, fast: str) -> None:
    folder = checkpoint_with(tmp_path, {}, {"do_lower_case": False, "tokenizer_class": f"{name}{fast}"})
    expected = AutoTokenizer.from_pretrained(str(folder))(SAMPLE)["input_ids"]
    assert Tokenizer.from_str(tokenizer_of(folder, 100)).encode(SAMPLE).ids == expected


def test_the_class_may_stand_in_config_json(tmp_path: Path) -> None:
    folder = checkpoint_with(tmp_path, {}, {"do_lower_case": False})
    (folder / "config.json").write_text('{"model_type": "bert", "tokenizer_class": "PreTrainedTokenizerFast"}')
    expected = AutoTokenizer.from_pretrained(str(folder))(SAMPLE)["input_ids"]
    text, notes = read_tokenizer(folder, 100, tokenizer_class="PreTrainedTokenizerFast")
    assert Tokenizer.from_str(text).encode(SAMPLE).ids == expected
    assert not notes


def test_a_note_says_which_file_was_followed(tmp_path: Path) -> None:
    folder = checkpoint_with(tmp_path, {}, {"do_lower_case": False, "strip_accents": False})
    assert notes_of(folder) == (
        "tokenizer.json says do_lower_case true, strip_accents true; tokenizer_config.json, with BERT's defaults for "
        "what it leaves out, do_lower_case false, strip_accents false: tokenizer_config.json was followed, as in "
        "transformers"
    )
    assert notes_of(checkpoint_with(tmp_path, {}, {"strip_accents": True})) == ""  # lower-casing strips them anyway


def test_a_packed_checkpoint_has_all_in_tokenizer_json(tmp_path: Path) -> None:
    folder = checkpoint_with(tmp_path, {"do_lower_case": False}, None)
    text, notes = read_tokenizer(folder, 100, packed=True)
    assert text == (folder / "tokenizer.json").read_text()
    assert not notes


@pytest.mark.parametrize("command", ["pack", "build"])
def test_commands_say_which_file_was_followed(tmp_path: Path, densepack: CommandLine, command: str) -> None:
    planted = Planted(replace(UNEVEN, max_position_embeddings=384))
    folder = planted.write(tmp_path / "c")
    (folder / "tokenizer.json").write_text(planted.tokenizer_json)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    more = ("--no-parity", "--no-engine", "--limit", "2")
    done = densepack(command, folder, tmp_path / "out", *(more if command == "build" else ()))
    assert done.code == 0, done.err
    assert "do_lower_case false, strip_accents false: tokenizer_config.json was followed" in " ".join(done.err.split())
    written = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["normalizer"]["lowercase"] is False


def test_berts_own_vocabulary_is_lower_cased_as_in_transformers(tmp_path: Path, shared_data: Path) -> None:
    """Its only capital is the letter ℝ."""
    shutil.copy(shared_data / "bert-base-uncased-vocab.txt", tmp_path / "vocab.txt")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    ours, theirs = Tokenizer.from_str(tokenizer_of(tmp_path, 30522)), AutoTokenizer.from_pretrained(str(tmp_path))
    for text in (*TEXTS, "The Letter ℝ stands for REAL numbers"):
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert notes_of(tmp_path) == (
        "nothing says whether to lower-case (do_lower_case): words are lower-cased, as in transformers"
    )


def test_a_cased_vocabulary_that_nothing_speaks_for_is_lower_cased_and_said(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, [*SPECIAL_TOKENS.values(), "paris", "Paris", "##X"], None)
    assert Tokenizer.from_str(tokenizer_of(folder, 8)).encode("Paris").ids == [2, 5, 3]
    assert "2 words of vocab.txt have capitals and are never found so: a cased model needs" in notes_of(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.from_str(tokenizer_of(folder, 8)).encode("Paris").ids == [2, 6, 3]
    assert notes_of(folder) == ""


# --- refusals ---


def test_a_tokenizer_that_panics_is_refused(tmp_path: Path) -> None:
    """The library ends the thread: a BaseException that no `except Exception` sees."""
    stored = json.loads(letter_tokenizer(128))
    stored["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert "tokenizer.json has no tokenizer that can be used" in fault(tmp_path)


def test_a_tokenizer_without_its_unknown_token_is_refused(tmp_path: Path) -> None:
    stored = json.loads(letter_tokenizer(128))
    stored["model"]["unk_token"] = "[NOTHERE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert "WordPiece error: Missing" in fault(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_huge_file_is_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    assert f"{name} cannot be read" in fault(tmp_path)


@pytest.mark.parametrize("number", ["3", 1.5, None, True])
def test_added_tokens_without_a_number(tmp_path: Path, number: object) -> None:
    folder = folder_with(tmp_path, [*SPECIAL_TOKENS.values()], {"do_lower_case": True})
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": number}))
    assert "added_tokens.json gives '<x>'" in fault(folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    assert "tokenizer.json, vocab.txt with tokenizer_config.json, or vocab.json with merges.txt is needed" in fault(
        tmp_path
    )


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    planted = Planted()
    planted.tokenizer_json = letter_tokenizer(129)
    with pytest.raises(CheckpointError, match="has ids up to 128, and the model has 128 word embeddings"):
        load_checkpoint(planted.write(tmp_path / "c"))


@pytest.mark.parametrize("content", [b"{}", b"", b"\xff"])
def test_files_that_are_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert str(tmp_path / "tokenizer.json") in fault(tmp_path)


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["[PAD]", "[UNK]"], {}, "cls_token '[CLS]' is not in vocab.txt; sep_token '[SEP]' is not"),
        ([], {"do_lower_case": "yes"}, "do_lower_case is 'yes', true or false is needed"),
        ([], {"do_lower_case": None}, "do_lower_case is None, true or false is needed"),
        ([], {"strip_accents": 0}, "strip_accents is 0, true or false is needed"),
        ([], {"added_tokens_decoder": [1]}, "added_tokens_decoder is [1], an object is needed"),
        ([], {"added_tokens_decoder": {"x": "a"}}, "added_tokens_decoder has 'x' for 'a', an id for a text is needed"),
        ([], {"added_tokens_decoder": {"-1": "a"}}, "added_tokens_decoder has '-1' for 'a'"),
        ([], {"added_tokens_decoder": {"1.5": "a"}}, "added_tokens_decoder has '1.5' for 'a'"),
        ([], {"added_tokens_decoder": {"": "a"}}, "added_tokens_decoder has '' for 'a'"),
        ([], {"added_tokens_decoder": {"9" * 5000: "a"}}, "added_tokens_decoder has '9999"),
        ([], {"added_tokens_decoder": {"1": {"special": True}}}, "added_tokens_decoder has '1' for None"),
        ([], {"added_tokens_decoder": {"1": 3}}, "added_tokens_decoder has '1' for 3"),
        (
            [],
            {"added_tokens_decoder": {"1": {"content": "a", "lstrip": "yes"}}},
            "lstrip of the added token 'a' is 'yes', true or false is needed",
        ),
        ([":$A", "[PAD]", "[UNK]", "[SEP]"], {"cls_token": ":$A"}, "no tokenizer can be built"),
        ([], {"do_basic_tokenize": False}, "do_basic_tokenize is false"),
        ([], {"never_split": ["C++"]}, "never_split is ['C++']"),
    ],
)
def test_settings_that_cannot_be_honoured(
    tmp_path: Path, words: list[str], settings: dict[str, Any] | None, message: str
) -> None:
    assert message in fault(folder_with(tmp_path, words, settings))


def test_a_vocabulary_with_gaps_has_no_vocab_txt() -> None:
    tokenizer = json.loads(letter_tokenizer(128))
    del tokenizer["model"]["vocab"]["a"]
    with pytest.raises(CheckpointError, match="without gaps"):
        vocabulary_lines(json.dumps(tokenizer))
