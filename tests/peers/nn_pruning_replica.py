"""Let nn_pruning read and pack replicas: random weights in the published format, as densepack writes it.

Runs in an environment of its own (see README.md beside this file), with densepack's source roots on the path:

    PYTHONPATH=models:runtime python tests/peers/nn_pruning_replica.py tests/peers/results/nn_pruning_replica.json

One replica has the shape of madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1 (355 MiB, made in a
temporary folder), one is small. transformers 4.57 loads them with `from_pretrained`, as the model card says, and
nn_pruning packs them. Only logits and sizes are kept: a test makes the same replicas again from their seeds.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from nn_pruning.inference_model_patcher import optimize_model
from nn_pruning_pack import logits
from provenance import provenance
from transformers import BertForQuestionAnswering

from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.host.records import data_from_record
from densepack_runtime.structure import LayerStructure, Structure

SMALL_HEADS = ((0,), (1, 3), (0, 1, 2, 3), (2,), (0, 3), (1, 2, 3)) * 2
SMALL = Structure(
    vocab_size=128,
    max_position_embeddings=40,
    type_vocab_size=2,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    layers=tuple(
        LayerStructure(heads=heads, ffn_units=tuple(range(3 * index + 1)), ffn_width=3 * index + 1)
        for index, heads in enumerate(SMALL_HEADS)
    ),
    ffn_positions="stored",
)
REPLICAS = {"small": SMALL, "seed": SEED}
RANDOM_SEED = 7
SHAPE = (2, 24)  # batch, length
LENGTHS = (24, 15)


def batch_of(structure: Structure) -> dict[str, torch.Tensor]:
    """Random ids with padding, int64 [B, S]; five tokens of question."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    mask = (torch.arange(SHAPE[1]) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(1, structure.vocab_size, SHAPE, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(SHAPE[1]) > 4).long() * mask}


def record(structure: Structure) -> dict[str, Any]:
    batch = batch_of(structure)
    with tempfile.TemporaryDirectory() as folder:
        path = random_checkpoint(Path(folder) / "replica", structure, seed=RANDOM_SEED)
        model = BertForQuestionAnswering.from_pretrained(path, dtype=torch.float64).eval()
    torch.set_default_dtype(torch.float64)  # nn_pruning makes its layers in the default type; rounding is not the point
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for every matrix
        packed = optimize_model(model, "dense")
    torch.set_default_dtype(torch.float32)
    return {
        "seed": RANDOM_SEED,
        "structure": data_from_record(structure),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_packed": sum(parameter.numel() for parameter in packed.parameters()),
        "inputs": {name: tensor.tolist() for name, tensor in batch.items()},
        "packed": logits(packed, batch).tolist(),
        "max_abs_difference": (logits(model, batch) - logits(packed, batch)).abs().max().item(),
    }


def main(out: str) -> None:
    cases = {}
    for name, structure in REPLICAS.items():
        cases[name] = case = record(structure)
        sys.stderr.write(f"{name}: {case['parameters']:,} parameters, packed {case['parameters_packed']:,}\n")
    document = provenance("torch", "transformers", "nn_pruning") | {"cases": cases}
    Path(out).write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
