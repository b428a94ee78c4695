"""Write tokenizers as repositories had them before tokenizer.json, whose tokens `record_tokens.py` then records.

    python -m tests.peers.old_repositories FOLDER

Every family with the settings that decide its words, spaces and special tokens; the same bytes on every machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.tiny_tokenizers import byte_level_tokenizer, sentencepiece_model, word_pieces

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.tokenizer import SENTENCEPIECE

# Settings of tokenizer_config.json by what they show.
WORDS: dict[str, dict[str, Any]] = {
    "lower": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "lower-with-accents": {"do_lower_case": True, "strip_accents": False},
    "cased-without-accents": {"do_lower_case": False, "strip_accents": True},
    "cjk-in-words": {"do_lower_case": True, "tokenize_chinese_chars": False},
}
SPACES: dict[str, dict[str, Any]] = {
    "prefix-space": {"add_prefix_space": True},
    "untrimmed": {"trim_offsets": False},
    "prefix-space-untrimmed": {"add_prefix_space": True, "trim_offsets": False},
}
# Tokens that were added after training, as the two generations of files say it.
ADDED = ("<entity>", "two words")


def repositories() -> Iterator[tuple[str, Family, dict[str, str | bytes]]]:
    """Name, family, and files: the vocabulary alone, each of the settings, and added tokens said in both ways."""
    for family in FAMILIES:
        vocabulary, size, settings = _vocabulary(family)
        for name, said in {"plain": {}, **settings}.items():
            files = {"tokenizer_config.json": json.dumps(said)} if said else {}
            yield f"{family.model_type}-{name}", family, _files(family, vocabulary, files)
        places = {token: size + place for place, token in enumerate(ADDED)}
        special = json.dumps({"additional_special_tokens": ["<entity>"]})
        first = {"added_tokens.json": json.dumps(places), "special_tokens_map.json": special}
        yield f"{family.model_type}-added-tokens", family, _files(family, vocabulary, first)
        decoder = {str(place): _added(token) for token, place in places.items()}
        said = {"added_tokens_decoder": decoder, "additional_special_tokens": ["<entity>"]}
        later = {"tokenizer_config.json": json.dumps(said)}
        yield f"{family.model_type}-added-tokens-decoder", family, _files(family, vocabulary, later)


def _added(token: str) -> dict[str, Any]:
    special = token == "<entity>"
    return {
        "content": token,
        "lstrip": special,
        "rstrip": False,
        "normalized": not special,
        "single_word": False,
        "special": special,
    }


def _vocabulary(family: Family) -> tuple[dict[str, str | bytes], int, Mapping[str, dict[str, Any]]]:
    """The family's vocabulary files, the first id behind them, and the settings that its class knows."""
    if family.sentencepiece:
        model, pieces = sentencepiece_model()
        # What the converters put before and behind the pieces.
        return (
            {SENTENCEPIECE: model},
            pieces + {"XLMRobertaConverter": 2, "CamembertConverter": 5}[family.sentencepiece],
            {},
        )
    if family.fixed.get("token_types") == "constant":
        with TemporaryDirectory() as folder:
            tokenizer = byte_level_tokenizer()
            tokenizer.model.save(folder)
            files: dict[str, str | bytes] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return files, tokenizer.get_vocab_size(), SPACES
    tokens = word_pieces()
    return {"vocab.txt": "".join(f"{token}\n" for token in tokens)}, len(tokens), WORDS


def _files(family: Family, *parts: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {"config.json": json.dumps({"model_type": family.model_type})}
    for part in parts:
        files |= part
    return files


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def main(out: str) -> None:
    for name, _, files in repositories():
        sys.stderr.write(f"wrote {write(Path(out) / name, files)}: {sorted(files)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
