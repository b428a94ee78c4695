"""Tokenizers that are not WordPiece: read from every form that the hub has, checked, and written for other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import AutoTokenizer

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from densepack_models.formats.config import structure_from_config
from densepack_models.formats.tokenizer import SENTENCEPIECE, check_layout, read_tokenizer
from densepack_models.formats.writer import write_tokenizer_files
from densepack_runtime.errors import CheckpointError
from densepack_runtime.question_answering.pair_format import PairFormat, load_tokenizer
from tests.models.tiny_checkpoints import tiny_config
from tests.tiny_tokenizers import SENTENCES, byte_level_tokenizer, sentencepiece_model, unigram_tokenizer

TEXTS = (*SENTENCES, " It's naïve\u00a0🎹 ", "a b</s>c", "\tline\n  two  ")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"add_prefix_space": True},
    {"trim_offsets": False},
    {"add_prefix_space": True, "trim_offsets": False},
)


def encoded(tokenizer: Tokenizer) -> list[tuple[list[int], list[tuple[int, int]]]]:
    return [(found.ids, found.offsets) for text in TEXTS for found in [tokenizer.encode("Who's that?", text)]]


def folder_with(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **settings}))
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_vocabulary_and_merges_are_what_transformers_makes_of_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder_with(tmp_path, settings)
    byte_level_tokenizer().model.save(str(tmp_path))
    text, _ = read_tokenizer(tmp_path, 400)
    expected = AutoTokenizer.from_pretrained(str(tmp_path)).backend_tokenizer
    assert encoded(load_tokenizer(text)) == encoded(expected)


def test_a_mask_takes_the_space_before_it_along(tmp_path: Path) -> None:
    """As the class of transformers 4 had it; that of transformers 5 leaves the space."""
    byte_level_tokenizer().model.save(str(folder_with(tmp_path, {})))
    text, _ = read_tokenizer(tmp_path, 400)
    found = load_tokenizer(text).encode("a <mask>", add_special_tokens=False)
    assert found.ids[1:] == [4]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_of_spaces_are_followed(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder_with(tmp_path, settings)
    stored = byte_level_tokenizer()
    stored.save(str(tmp_path / "tokenizer.json"))
    text, notes = read_tokenizer(tmp_path, 400)
    byte_level_tokenizer().model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    expected, _ = read_tokenizer(tmp_path, 400)
    assert [ids for ids, _ in encoded(load_tokenizer(text))] == [ids for ids, _ in encoded(load_tokenizer(expected))]
    assert bool(notes) == bool(settings)
    assert all(f"{name} {json.dumps(value)}" in notes[0] for name, value in settings.items())


def test_a_setting_that_is_no_truth_is_refused(tmp_path: Path) -> None:
    byte_level_tokenizer().model.save(str(folder_with(tmp_path, {"add_prefix_space": "yes"})))
    with pytest.raises(CheckpointError, match="add_prefix_space is 'yes', true or false is needed"):
        read_tokenizer(tmp_path, 400)


def test_damaged_merges_are_refused(tmp_path: Path) -> None:
    byte_level_tokenizer().model.save(str(folder_with(tmp_path, {})))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnobody knows these\n")
    with pytest.raises(CheckpointError, match="no tokenizer can be built"):
        read_tokenizer(tmp_path, 400)


@pytest.mark.parametrize(("family", "specials"), [(XLM_ROBERTA, (0, 1, 2, 3)), (CAMEMBERT, (5, 1, 6, 3))])
def test_sentencepiece_is_converted(tmp_path: Path, family: Any, specials: tuple[int, ...]) -> None:
    model, _ = sentencepiece_model()
    (tmp_path / SENTENCEPIECE).write_bytes(model)
    text, _ = read_tokenizer(tmp_path, 400, sentencepiece=family.sentencepiece)
    tokenizer = load_tokenizer(text)
    assert isinstance(tokenizer.model, Unigram)
    pair = PairFormat.of(tokenizer)
    cls, pad, sep, unknown = specials
    assert (pair.prefix.tolist(), pair.middle.tolist(), pair.suffix.tolist()) == ([cls], [sep, sep], [sep])
    assert (pair.pad, tokenizer.token_to_id("<unk>")) == (pad, unknown)
    found = tokenizer.encode("Chopin was born <mask>", add_special_tokens=False)
    assert found.ids[-1] == tokenizer.token_to_id("<mask>")
    assert "".join(found.tokens[:-1]).replace("▁", " ").strip() == "Chopin was born"


@pytest.mark.parametrize("content", [b"", b"\xff\xff"])
def test_damaged_sentencepiece_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SENTENCEPIECE).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be converted"):
        read_tokenizer(tmp_path, 400, sentencepiece=XLM_ROBERTA.sentencepiece)


def test_without_any_file_the_forms_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab.json with merges.txt, or sentencepiece.bpe.model is needed"):
        read_tokenizer(tmp_path, 400, sentencepiece=XLM_ROBERTA.sentencepiece)


@pytest.mark.parametrize("make", [byte_level_tokenizer, unigram_tokenizer])
def test_written_files_say_the_same_to_transformers_and_to_us(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    text = make().to_str()
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    write_tokenizer_files(tmp_path, text, 62)
    assert not (tmp_path / "vocab.txt").exists()
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert encoded(theirs.backend_tokenizer) == encoded(Tokenizer.from_str(text))
    assert (theirs.model_max_length, theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id) == (62, 1, 0, 2)
    assert read_tokenizer(tmp_path, 400) == (text, ())


def test_padding_that_the_positions_do_not_know_is_refused() -> None:
    structure = structure_from_config(tiny_config(ROBERTA))
    text = byte_level_tokenizer().to_str()
    check_layout(text, structure)
    with pytest.raises(CheckpointError, match="pads with id 1, and the model counts .* other than 0"):
        check_layout(text, replace(structure, position_pad_id=0))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_a_tokenizer_without_token_types_is_of_a_model_without(family: Family) -> None:
    """Fed with them, a model would get types that it was not trained with."""
    structure = replace(structure_from_config(tiny_config(family)), position_pad_id=None)
    text = byte_level_tokenizer().to_str()
    if structure.token_types != "fed":
        check_layout(text, structure)
        return
    with pytest.raises(CheckpointError, match="gives a question and its context the same token type"):
        check_layout(text, structure)


def test_a_tokenizer_that_joins_no_pairs_is_refused() -> None:
    stored = json.loads(byte_level_tokenizer().to_str()) | {"post_processor": None}
    with pytest.raises(CheckpointError, match="does not belong to the model: the tokenizer joins a question"):
        check_layout(json.dumps(stored), structure_from_config(tiny_config()))
