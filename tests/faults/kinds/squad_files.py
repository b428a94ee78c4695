"""SQuAD files that were damaged, or never had the right shape, in all forms that are read."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.squad import load_squad
from tests.faults.kinds.kind import REFUSED, TRACEBACK, WRONG, kind

CONTEXT = "The bridge was built by Anna Berg in 1901."
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1e400, float("nan"), "", " ", "\ud800", "\u2028", "[/x]", [], {}, [[]], {"text": "x"}),
    *([{}], "x" * 5000, list(range(50)), {"data": []}),
)
RAW = (b"", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"1" * 5000, b"[" * 100_000, b"{}\n{}", b'{"data": ' * 900, b"\x00")


@kind("SQuAD files", tries=500, quick=30)
def squad_files(seed: int, folder: Path) -> Iterator[str]:
    """What is read has to read the same again, and after it was written in the official form."""
    rng = random.Random(seed)
    while True:
        path = folder / rng.choice(("squad.json", "squad.jsonl", "squad.json.gz"))
        data = damaged(rng)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and rng.random() < 0.8 else data)
        yield ending(path, folder / "official.json")


def ending(path: Path, official: Path) -> str:
    try:
        dataset = load_squad(str(path))
    except InputError as error:
        return REFUSED if "\n" not in str(error) and len(str(error)) < 1000 else f"{TRACEBACK}: more than a line"
    except Exception as error:  # noqa: BLE001  # which is what is looked for
        return f"{TRACEBACK}: {type(error).__name__}"
    rows = [
        {
            "id": question.id,
            "question": question.question,
            "is_impossible": question.is_impossible,
            "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(question.answers, question.answer_starts, strict=True)
            ],
        }
        for question in dataset.questions
    ]
    paragraphs = [
        {"context": question.context, "qas": [row]} for question, row in zip(dataset.questions, rows, strict=True)
    ]
    official.write_text(json.dumps({"version": dataset.version, "data": [{"paragraphs": paragraphs}]}))
    again = load_squad(str(path)) == dataset and load_squad(str(official)).questions == dataset.questions
    return "read, and the same again" if again else f"{WRONG}: it reads otherwise again"


def damaged(rng: random.Random) -> bytes:
    """A file in one of the forms with an odd value, a lost key, another byte or a lost end; or something else."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    document = copy.deepcopy(rng.choice(FORMS))
    if rng.random() < 0.6:
        disturb(rng, document)
    if isinstance(document, list) and rng.random() < 0.5:
        data = "\n".join(json.dumps(row) for row in document).encode()
    else:
        data = json.dumps(document, indent=rng.choice((None, 1)), ensure_ascii=True).encode()
    place = rng.randrange(len(data))
    if rng.random() < 0.2:
        data = data[:place]
    if rng.random() < 0.2:
        data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    return data.decode("latin-1").encode("utf-16") if rng.random() < 0.05 else data


def disturb(rng: random.Random, document: Any) -> None:
    """Change one value somewhere in a document."""
    holder, key = rng.choice(list(walk(document)))
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(rng.choice((*ODD, document)))


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested dicts and lists."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from walk(value[key])


def _row(identity: object, **changes: Any) -> dict[str, Any]:
    answers = {"text": ["Anna Berg"], "answer_start": [24]}
    return {"id": identity, "context": CONTEXT, "question": "Who built the bridge?", "answers": answers} | changes


def _article(*identities: object, **changes: Any) -> dict[str, Any]:
    answers = [{"text": "Anna Berg", "answer_start": 24}]
    questions = [{"id": each, "question": "Who built the bridge?", "answers": answers} | changes for each in identities]
    return {"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions}]}


FORMS: tuple[Any, ...] = (
    {"version": "1.1", "data": [_article("a", "b"), _article("c")]},
    {"version": "v2.0", "data": [_article("a"), _article("b", answers=[], is_impossible=True)]},
    {"version": "1.1", "data": [_article(1, 2, answers=[])]},
    [_row("a"), _row(2), _row("c", answers={"text": [], "answer_start": []})],
    {"data": [_row("a"), _row("b")]},
    [_row("a", answers=None), _row("b", is_impossible=None)],
)
