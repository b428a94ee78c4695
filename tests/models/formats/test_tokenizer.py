"""Tokenizers: tokenizer.json as it is, or the one that transformers builds from vocab.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import BertTokenizer

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.replica import letter_tokenizer
from densepack_models.formats.tokenizer import read_tokenizer, read_vocabulary, tokenizer_config, vocabulary_lines
from densepack_models.formats.writer import write_tokenizer_files
from densepack_runtime.errors import CheckpointError
from tests.models.formats.planted_checkpoints import Planted

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


def fault(folder: Path, vocab_size: int = 40000) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(folder, vocab_size)
    return str(caught.value)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_built_tokenizer_is_that_of_transformers(
    tmp_path: Path, vocabulary: list[str], settings: dict[str, Any]
) -> None:
    folder = folder_with(tmp_path, vocabulary, settings)
    ours = Tokenizer.from_str(read_tokenizer(folder, len(vocabulary)))
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
    tokenizer = Tokenizer.from_str(read_tokenizer(folder, 7))
    assert tokenizer.encode("AB z", "a").ids == [2, 5, 6, 1, 3, 5, 3]


def test_a_vocabulary_without_mask_token_is_enough(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"], {"do_lower_case": True})
    assert Tokenizer.from_str(read_tokenizer(folder, 5)).encode("a", "A").ids == [2, 4, 3, 4, 3]


def test_added_tokens_follow_the_vocabulary(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    decoder = {"0": {"content": "[PAD]"}, "7": {"content": "<two>"}, "6": {"content": "<one>"}}
    folder = folder_with(tmp_path, words, {"do_lower_case": True, "added_tokens_decoder": decoder})
    assert Tokenizer.from_str(read_tokenizer(folder, 8)).encode("a<two><one>").ids == [2, 5, 7, 6, 3]
    (folder / "added_tokens.json").write_text('{"<three>": 9}')
    assert "the added token '<three>' should have id 9 and gets 8" in fault(folder)


def test_tokenizer_json_is_kept_to_the_byte(tmp_path: Path, default_tokenizer_json: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(default_tokenizer_json.replace("\n", "\r\n").encode())
    (tmp_path / "vocab.txt").write_text("ignored")
    assert read_tokenizer(tmp_path, 30522) == default_tokenizer_json.replace("\n", "\r\n")


def test_vocabulary_lines_are_split_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\na\u2028b\r\n\x85\r\nlast".encode())
    assert read_vocabulary(path) == {"[PAD]": 0, "a\u2028b": 1, "\x85": 2, "last": 3}


def test_files_for_older_tools_say_the_same(tmp_path: Path, default_tokenizer_json: str) -> None:
    write_tokenizer_files(tmp_path, default_tokenizer_json, 512)
    built = Tokenizer.from_str(read_tokenizer(tmp_path, 30522))
    stored = Tokenizer.from_str(default_tokenizer_json)
    stored.no_truncation()
    stored.no_padding()
    for text in TEXTS:
        assert built.encode(text, text).ids == stored.encode(text, text).ids
    assert tokenizer_config(default_tokenizer_json, 512)["do_lower_case"] is True


# --- refusals ---


def test_no_tokenizer(tmp_path: Path) -> None:
    assert "tokenizer.json, or vocab.txt with tokenizer_config.json, is needed" in fault(tmp_path)


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
        (["Paris"], {}, "nothing says whether to lower-case (do_lower_case)"),
        (["Paris"], None, "nothing says whether to lower-case (do_lower_case)"),
        ([], {"do_lower_case": "yes"}, "do_lower_case is 'yes', true, false or null is needed"),
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
