"""Repositories without tokenizer.json, of every family: the tokens are those of transformers 4.57.

`tests/peers/old_repositories.py` wrote their files and `record_tokens.py` recorded what transformers makes of texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from densepack_models.formats.tokenizer import read_tokenizer
from tests.peers.old_repositories import repositories, write

RECORDED = json.loads((Path(__file__).parents[2] / "peers" / "results" / "tokens.json").read_text(encoding="utf-8"))
REPOSITORIES = {name: (family, files) for name, family, files in repositories()}


def encoded(tokenizer: Tokenizer, question: str, context: str) -> dict[str, list[Any]]:
    """As recorded. transformers takes an empty context for none."""
    encoding = tokenizer.encode(question, context or None)
    return {
        "ids": encoding.ids,
        "offsets": [place for pair in encoding.offsets for place in pair],
        "words": encoding.word_ids,
        "types": encoding.type_ids,
    }


def test_what_is_recorded_is_what_is_written() -> None:
    assert RECORDED["versions"]["transformers"].startswith("4.57")
    assert {*REPOSITORIES} == {*RECORDED["repositories"]}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_tokens_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    family, files = REPOSITORIES[name]
    text, _ = read_tokenizer(write(tmp_path / name, files), 1000, sentencepiece=family.sentencepiece)
    tokenizer = Tokenizer.from_str(text)
    for pair in RECORDED["repositories"][name]["pairs"]:
        found = encoded(tokenizer, pair["question"], pair["context"])
        assert found == {part: pair[part] for part in found}, (pair["question"], pair["context"])
