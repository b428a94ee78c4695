"""SQuAD as training windows and batches: answers at their tokens, bad answers listed, every window once a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.training_data import TrainingWindows, answer_fault
from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.squad import SquadDataset, SquadQuestion, read_squad, sample_squad_path
from tests.models.pruning.tiny_task import LONGEST, squad_document, tiny_data, tiny_tokenizer


def windows_of(data: SquadDataset, folder: Path, tokenizer: str | None = None, **options: Any) -> TrainingWindows:
    sizes: dict[str, Any] = {"max_length": LONGEST, "doc_stride": 8} | options
    return TrainingWindows.load_or_make(data, tokenizer or tiny_tokenizer(), folder / "cache", **sizes)


def edited(folder: Path, change: Any) -> SquadDataset:
    document = squad_document(8)
    change([entry for paragraph in document["data"][0]["paragraphs"] for entry in paragraph["qas"]])
    path = folder / "edited.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_squad(path)


def test_positions_are_those_of_the_answer(default_tokenizer_json: str, tmp_path: Path) -> None:
    """On the sample set, with accents, CJK and emoji: the tokens at the positions cover the answer, and no more."""
    from tokenizers import Tokenizer

    data = read_squad(sample_squad_path())
    windows = windows_of(data, tmp_path, default_tokenizer_json, max_length=96, doc_stride=32)
    tokenizer = Tokenizer.from_str(default_tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert len(windows) > len(data.questions)
    answered = windows.start > 0
    texts = {"".join(answer.lower().split()) for question in data.questions for answer in question.answers[:1]}
    found = set()
    for index in np.flatnonzero(answered):
        first, last = windows.offsets[index] + windows.start[index], windows.offsets[index] + windows.end[index]
        found.add("".join(tokenizer.decode(windows.token_ids[first : last + 1].tolist()).split()))
    normal = {"".join(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids).split()) for text in texts}
    assert len(found & normal) > 0.9 * len(normal)
    assert (windows.start <= windows.end).all()
    assert (windows.end < windows.lengths).all()
    assert ((windows.start == 0) == (windows.end == 0)).all()


def test_windows_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_data(tmp_path)
    made = windows_of(data, tmp_path)
    [stored] = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("densepack_models.pruning.training_data.make_windows", None)
    read = windows_of(data, tmp_path)
    for name in ("token_ids", "offsets", "context_start", "start", "end"):
        assert np.array_equal(getattr(made, name), getattr(read, name)), name
    monkeypatch.undo()
    stored.write_bytes(stored.read_bytes()[:100])
    assert np.array_equal(windows_of(data, tmp_path).token_ids, made.token_ids)
    windows_of(data, tmp_path, max_length=24)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def question(**changes: Any) -> SquadQuestion:
    values: dict[str, Any] = {
        "id": "q",
        "question": "what is red",
        "context": "the red house",
        "answers": ("house",),
        "answer_starts": (8,),
        "is_impossible": False,
    }
    return SquadQuestion(**values | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"answers": (), "answer_starts": (), "is_impossible": True}, None),
        ({"answers": (), "answer_starts": ()}, "it has no answer and is not marked as impossible"),
        ({"answers": ("",)}, "its answer is empty"),
        ({"answer_starts": (7,)}, "its answer 'house' is not at character 7 of the context, there is ' hous'"),
        ({"answer_starts": (-5,)}, "its answer 'house' is not at character -5 of the context, there is 'the r'"),
        ({"answer_starts": (800,)}, "its answer 'house' is not at character 800 of the context, there is ''"),
    ],
)
def test_answers_that_cannot_be_used(changes: dict[str, Any], reason: str | None) -> None:
    assert answer_fault(question(**changes)) == reason


def test_bad_answers_are_dropped_and_listed_or_refused(tmp_path: Path) -> None:
    def move(entries: list[dict[str, Any]]) -> None:
        entries[3]["answers"][0]["answer_start"] += 1

    data = edited(tmp_path, move)
    windows = windows_of(data, tmp_path)
    assert [dropped.id for dropped in windows.dropped] == ["q3"]
    assert len(windows) == 7
    with pytest.raises(InputError, match=r"1 of 8 questions cannot be trained on; 'q3': its answer '.*' is not at"):
        windows_of(data, tmp_path, bad_answers="refuse")


def test_data_without_answers(tmp_path: Path) -> None:
    data = edited(tmp_path, lambda entries: [entry.update(answers=[]) for entry in entries])
    with pytest.raises(InputError, match="the training data has no answers"):
        windows_of(data, tmp_path)


def test_data_of_which_nothing_can_be_used(tmp_path: Path) -> None:
    def move(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry["answers"][0]["answer_start"] += 1

    with pytest.raises(InputError, match="no question of the training data can be used; the first of them: 'q0'"):
        windows_of(edited(tmp_path, move), tmp_path)


@pytest.mark.parametrize("token_budget", [LONGEST, 100, 1000])
def test_a_pass_has_every_window_once_under_the_budget(tmp_path: Path, token_budget: int) -> None:
    windows = windows_of(tiny_data(tmp_path, 100), tmp_path)
    batches = TrainingBatches(windows, token_budget=token_budget, seed=0)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        items = [batches[index] for index in range(len(batches))]
        assert max(item["input_ids"].numel() for item in items) <= token_budget
        chosen = [int(window) for item in items for window in item["window"]]
        assert sorted(chosen) == list(range(len(windows)))
        orders.append(chosen)
        for item in items:
            for row, window in enumerate(item["window"].tolist()):
                length = int(windows.lengths[window])
                first = int(windows.offsets[window])
                assert item["input_ids"][row, :length].tolist() == windows.token_ids[first : first + length].tolist()
                assert (item["input_ids"][row, length:] == windows.pad_id).all()
                assert item["attention_mask"][row].sum() == length
                assert item["token_type_ids"][row].sum() == length - windows.context_start[window]
    assert orders[0] != orders[1]
    again = TrainingBatches(windows, token_budget=token_budget, seed=0)
    again.set_epoch(1)
    assert [int(window) for index in range(len(again)) for window in again[index]["window"]] == orders[1]


def test_a_budget_below_the_longest_window(tmp_path: Path) -> None:
    windows = windows_of(tiny_data(tmp_path), tmp_path)
    with pytest.raises(InputError, match="a batch of 8 tokens cannot hold the longest window"):
        TrainingBatches(windows, token_budget=8, seed=0)
