"""Let nn_pruning pack small checkpoints and record what its packed models answer, for a comparison with densepack.

Runs in an environment of its own (see README.md beside this file):

    python tests/peers/nn_pruning_pack.py tests/peers/results/nn_pruning

Each case is a random 12-layer BERT (nn_pruning packs nothing else) with some heads and FFN units set to zero, stored by
transformers 4.57, with the logits of the unpacked and of nn_pruning's packed model. `exact` and `cut heads` are cases
that nn_pruning packs exactly; in the others its rule is known to be wrong, and the difference is what is recorded.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from nn_pruning.inference_model_patcher import optimize_model
from provenance import provenance
from transformers import BertConfig, BertForQuestionAnswering

HEAD, HEADS, UNITS = 4, 4, 12
LAYER = "bert.encoder.layer.{}."
SHAPE = (3, 24)  # batch, length

State = dict[str, torch.Tensor]


def rows(head: int) -> slice:
    return slice(head * HEAD, (head + 1) * HEAD)


def drop_head(state: State, layer: int, head: int) -> None:
    """Everything of a head to zero, biases included: every rule packs that exactly."""
    prefix = LAYER.format(layer) + "attention."
    for name in ("query", "key", "value"):
        state[f"{prefix}self.{name}.weight"][rows(head)] = 0
        state[f"{prefix}self.{name}.bias"][rows(head)] = 0
    state[f"{prefix}output.dense.weight"][:, rows(head)] = 0


def drop_unit(state: State, layer: int, unit: int) -> None:
    prefix = LAYER.format(layer)
    state[f"{prefix}intermediate.dense.weight"][unit] = 0
    state[f"{prefix}intermediate.dense.bias"][unit] = 0
    state[f"{prefix}output.dense.weight"][:, unit] = 0


def exact(state: State) -> None:
    for layer in range(12):
        drop_head(state, layer, layer % HEADS)
        for unit in range(layer % 5):
            drop_unit(state, layer, 2 * unit)


def one_block(name: str, *, zero_bias: bool = False) -> Callable[[State], None]:
    def plant(state: State) -> None:
        for layer in range(12):
            prefix = f"{LAYER.format(layer)}attention.self.{name}"
            state[f"{prefix}.weight"][rows(1)] = 0
            if zero_bias:
                state[f"{prefix}.bias"][rows(1)] = 0

    return plant


def unit_with_bias(state: State) -> None:
    for layer in range(12):
        state[f"{LAYER.format(layer)}intermediate.dense.weight"][3] = 0


CASES: dict[str, tuple[dict[int, list[int]], Callable[[State], None]]] = {
    "exact": ({}, exact),
    "cut heads": ({0: [1], 5: [0, 2]}, lambda _: None),
    "value zero with bias": ({}, one_block("value")),
    "query zero": ({}, one_block("query", zero_bias=True)),
    "key zero": ({}, one_block("key")),
    "unit zero with bias": ({}, unit_with_bias),
    # After the cut the second of the three heads that are left is empty; nn_pruning takes its place for its id.
    "cut heads, one more empty": ({0: [0]}, lambda state: drop_head(state, 0, 1)),
}


def make_model(seed: int, cut: dict[int, list[int]], plant: Callable[[State], None]) -> BertForQuestionAnswering:
    """Random weights *and biases*, rounded to float16 (they are stored so), with some of them zero."""
    config = BertConfig(
        vocab_size=60,
        hidden_size=HEAD * HEADS,
        num_hidden_layers=12,
        num_attention_heads=HEADS,
        intermediate_size=UNITS,
        max_position_embeddings=32,
    )
    model = BertForQuestionAnswering(config).eval().double()
    model.prune_heads(cut)
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.copy_((1 + 0.1 * noise if name.endswith("LayerNorm.weight") else 0.3 * noise).half())
    plant(state)
    return model


def inputs(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(SHAPE[1]) < torch.tensor([[SHAPE[1]], [17], [5]])).long()
    ids = torch.randint(1, 60, SHAPE, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(SHAPE[1]) > 4).long() * mask}


def logits(model: BertForQuestionAnswering, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        output = model(**batch)
    return torch.stack([output.start_logits, output.end_logits])  # [2, B, S]


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer of single characters, in the two files that the published models have."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(chr(ord("!") + number) for number in range(vocabulary - len(special)))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}\n', encoding="utf-8")


def record(folder: Path, seed: int, cut: dict[int, list[int]], plant: Callable[[State], None]) -> dict[str, object]:
    model, batch = make_model(seed, cut, plant), inputs(seed)
    unpacked = logits(model, batch)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for every matrix
        packed = logits(optimize_model(model, "dense"), batch)
    model.half().save_pretrained(folder)
    write_tokenizer(folder, model.config.vocab_size)
    real = batch["attention_mask"].bool()
    return {
        "inputs": {name: tensor.tolist() for name, tensor in batch.items()},
        "unpacked": unpacked.tolist(),
        "packed": packed.tolist(),
        "max_abs_difference": (unpacked - packed).abs()[:, real].max().item(),
    }


def main(out: str) -> None:
    torch.set_default_dtype(torch.float64)  # nn_pruning makes its layers in the default type; rounding is not the point
    target = Path(out)
    shutil.rmtree(target, ignore_errors=True)
    cases = {}
    for seed, (name, (cut, plant)) in enumerate(CASES.items()):
        folder = target / name.replace(",", "").replace(" ", "-")
        cases[name] = {"folder": folder.name, **record(folder, seed, cut, plant)}
        sys.stderr.write(f"{name}: nn_pruning changes a logit by up to {cases[name]['max_abs_difference']:.2g}\n")
    document = provenance("torch", "transformers", "nn_pruning") | {"cases": cases}
    (target / "results.json").write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
