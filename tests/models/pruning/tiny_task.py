"""A task that a tiny model learns in seconds: the question names a colour, the answer is the thing that has it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.json_files import write_json
from densepack_models.formats.replica import write_weights
from densepack_models.formats.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from densepack_models.formats.writer import write_tokenizer_files
from densepack_models.pruning.options import TrainingOptions
from densepack_runtime.question_answering.squad import SquadDataset, read_squad
from tests.models.tiny_checkpoints import tiny_checkpoint

COLOURS = ("red", "green", "blue", "white", "black", "brown")
THINGS = ("house", "car", "tree", "dog", "ship", "lamp", "book", "hat")
FILLERS = ("and", "the", "a", "by", "near", "under")
LONGEST = 32


def tiny_tokenizer(extra: tuple[str, ...] = ()) -> str:
    tokens = [*SPECIAL_TOKENS.values(), "what", "is", *COLOURS, *THINGS, *FILLERS, *extra]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return wordpiece_tokenizer(vocabulary, SPECIAL_TOKENS, {"do_lower_case": True}).to_str()


def squad_document(questions: int = 64, seed: int = 0) -> dict[str, Any]:
    """SQuAD v1.1: "what is red" asked of "the brown dog near the red house and …"."""
    generator = random.Random(seed)
    paragraphs = []
    for number in range(questions):
        colours = generator.sample(COLOURS, generator.randint(2, 4))
        things = generator.sample(THINGS, len(colours))
        pairs = [f"{generator.choice(FILLERS)} {colour} {thing}" for colour, thing in zip(colours, things, strict=True)]
        context = " ".join(pairs)
        chosen = generator.randrange(len(colours))
        answer = {"text": things[chosen], "answer_start": context.index(things[chosen])}
        question = {"id": f"q{number}", "question": f"what is {colours[chosen]}", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"title": "tiny", "paragraphs": paragraphs}]}


def write_squad(path: Path, questions: int = 64, seed: int = 0) -> Path:
    path.write_text(json.dumps(squad_document(questions, seed)), encoding="utf-8")
    return path


def tiny_data(folder: Path, questions: int = 64, seed: int = 0) -> SquadDataset:
    return read_squad(write_squad(folder / f"tiny-{questions}-{seed}.json", questions, seed))


def tiny_start(*, seed: int = 0, scale: float = 1.0, extra: tuple[str, ...] = (), **changes: Any) -> Checkpoint:
    """A random BERT of 2 layers, 4 heads of 8, 16 FFN units, that knows the words of the task."""
    checkpoint = tiny_checkpoint(seed=seed, max_position_embeddings=LONGEST, **changes)
    for tensor in checkpoint.tensors.values():
        if tensor.ndim == 2:
            tensor.mul_(scale)
    checkpoint.tensors["embeddings.token_type.weight"].zero_()
    return Checkpoint(**{**vars(checkpoint), "tokenizer_json": tiny_tokenizer(extra)})


def write_start(folder: Path, checkpoint: Checkpoint) -> Path:
    """The checkpoint as files."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", checkpoint.config)
    write_weights(folder, checkpoint.family.file_names(checkpoint.tensors), "safetensors")
    write_tokenizer_files(folder, checkpoint.tokenizer_json, LONGEST)
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    return folder


def tiny_options(**changes: Any) -> TrainingOptions:
    settings: dict[str, Any] = {
        "max_steps": 30,
        "token_budget": 256,
        "max_length": LONGEST,
        "doc_stride": 8,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "device": "cpu",
        "save_every": 1000,
        **changes,
    }
    return TrainingOptions(**settings)


def random_inputs(vocab_size: int, rows: int = 3, length: int = 20) -> tuple[torch.Tensor, ...]:
    """int64 ids, mask (with padding) and token types [B, S]."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocab_size, (rows, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([length, length // 2, 5])[:rows, None]).long()
    types = (torch.arange(length) >= 5).long() * mask
    return ids * mask, mask, types
