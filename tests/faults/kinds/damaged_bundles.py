"""A small real bundle with something wrong: it answers as it did, or is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from densepack_runtime.bundle import MANIFEST_NAME, FileEntry
from densepack_runtime.bundle.manifest import checksum
from densepack_runtime.host.files import sha256_of
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from tests.faults.damage import (
    ending,
    flip_or_cut,
    fresh_copy,
    hostile_json,
    hostile_json_file,
    odd_text,
    put_something_else,
)
from tests.faults.kinds.kind import WRONG, kind

BUNDLE = Path(__file__).parents[2] / "last_version" / "bundle"
QUESTION, CONTEXT = "Who was Chopin?", "Frédéric Chopin was a Polish composer and pianist."
SAME, SIGNED = "opened, with the same answers", "opened, with files that were signed anew"


@kind("damaged bundles", tries=600, quick=15)
def damaged_bundles(seed: int, folder: Path) -> Iterator[str]:
    expected = _answer(BUNDLE)
    rng = random.Random(seed)
    damages = (
        _bytes,
        _something_else,
        _stray,
        _manifest_text,
        _unsigned,
        _signed,
        _signed,
        _signed_tokenizer,
        _signed_graph,
    )
    while True:
        bundle = fresh_copy(BUNDLE, folder / "bundle")
        damage = rng.choice(damages)
        damage(rng, bundle)
        other = SIGNED if damage in (_signed_tokenizer, _signed_graph) else WRONG
        yield ending(partial(_compared, bundle, expected, other))


def _compared(bundle: Path, expected: tuple[str, int, int, float], other: str) -> str:
    return SAME if _answer(bundle) == expected else other


def _answer(bundle: Path) -> tuple[str, int, int, float]:
    with QuestionAnswerer.open(bundle, backend="onnxruntime", precision="fp32", threads=1) as answerer:
        answer = answerer.answer(question=QUESTION, context=CONTEXT)
    return answer.text, answer.start, answer.end, answer.score


def _any_file(rng: random.Random, bundle: Path) -> Path:
    return rng.choice(sorted(path for path in bundle.rglob("*") if path.is_file()))


def _bytes(rng: random.Random, bundle: Path) -> None:
    flip_or_cut(rng, _any_file(rng, bundle))


def _something_else(rng: random.Random, bundle: Path) -> None:
    put_something_else(rng, _any_file(rng, bundle))


def _stray(rng: random.Random, bundle: Path) -> None:
    put_something_else(rng, bundle / rng.choice(("stray", "engines/stray", "model.onnx.data", ".hidden")))


def _manifest_text(rng: random.Random, bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    path.write_bytes(odd_text(rng, path.read_text(encoding="utf-8")))


def _unsigned(rng: random.Random, bundle: Path) -> None:
    hostile_json_file(rng, bundle / MANIFEST_NAME)


def _signed(rng: random.Random, bundle: Path) -> None:
    """Odd values in the manifest, under a checksum that is right."""
    body = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    del body["checksum"]
    body = hostile_json(rng, body)
    (bundle / MANIFEST_NAME).write_text(json.dumps({**body, "checksum": checksum(body)}), encoding="utf-8")


def _signed_tokenizer(rng: random.Random, bundle: Path) -> None:
    hostile_json_file(rng, bundle / "tokenizer.json")
    _sign(bundle, "tokenizer.json")


def _signed_graph(rng: random.Random, bundle: Path) -> None:
    flip_or_cut(rng, bundle / "model.onnx")
    _sign(bundle, "model.onnx")


def _sign(bundle: Path, name: str) -> None:
    path = bundle / name
    body = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    del body["checksum"]
    entry = FileEntry(sha256_of(path), path.stat().st_size)
    body["files"][name] = {"sha256": entry.sha256, "bytes": entry.bytes}
    (bundle / MANIFEST_NAME).write_text(json.dumps({**body, "checksum": checksum(body)}), encoding="utf-8")
