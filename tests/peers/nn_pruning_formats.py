"""Let nn_pruning write a model in each of its on-disk formats, and record what it answers in each.

Runs in an environment of its own (see README.md beside this file):

    python tests/peers/nn_pruning_formats.py tests/peers/results/nn_pruning_formats

A random 12-layer BERT is patched for training by nn_pruning's ModelPatchingCoordinator, its scores are drawn so that
whole heads, single blocks and FFN units fall below the threshold, and it is taken through nn_pruning's own steps:

    training    as the Trainer stores it: dense weights beside mask_scores, and sparse_args.json
    compiled    SparseXP.compile_model: masks applied, dead heads cut (pruned_heads)
    optimised   optimize_model on that, saved: FFN cut too
    published   SparseXP.final_fine_tune_bertarize: FFN padded back to full width, the format of the hub

Logits are recorded for the training model in evaluation mode and for each format after it, computed in float64 from
the float32 weights that are stored: rounding is not the point.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from nn_pruning_pack import inputs, logits, write_tokenizer
from provenance import provenance
from transformers import BertConfig, BertForQuestionAnswering

HIDDEN, HEADS, LAYERS, VOCABULARY = 8, 4, 12, 60
HEAD = HIDDEN // HEADS
# Scores of a kept and of a masked block. sigmoid(-4) is 0.018, below the threshold of 0.1; sigmoid(2) is 0.88.
KEPT, MASKED = 2.0, -4.0

SETTINGS: dict[str, dict[str, Any]] = {
    # What the published models were trained with, in blocks that fit: a grid on attention, one score per FFN unit.
    "hybrid": {
        "dense_pruning_method": "sigmoied_threshold:1d_alt",
        "attention_pruning_method": "sigmoied_threshold",
        "attention_output_with_dense": False,
        "attention_block_rows": HEAD,
        "attention_block_cols": 4,
        "initial_threshold": 0.0,
        "final_threshold": 0.1,
    },
    # Top-k on vectors for rows and columns, LayerNorm turned into a plain scale, GELU into ReLU.
    "top-k no-norm": {
        "dense_pruning_method": "topK:1d_alt",
        "attention_pruning_method": "topK",
        "attention_output_with_dense": False,
        "attention_block_rows": HEAD,
        "attention_block_cols": HIDDEN,
        "final_threshold": 0.75,
        "layer_norm_patch": True,
        "gelu_patch": True,
    },
}


@contextlib.contextmanager
def hashable_defaults() -> Iterator[None]:
    """Python 3.11 refuses nn_pruning's dataclass defaults because they have no hash: give its dataclasses one."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        if cls is not None and cls.__module__ == "nn_pruning.modules.masked_nn":
            options["unsafe_hash"] = True
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


with hashable_defaults():
    from nn_pruning.inference_model_patcher import optimize_model
    from nn_pruning.patch_coordinator import ModelPatchingCoordinator, SparseTrainingArguments
    from nn_pruning.sparse_xp import SparseXP


class Experiment(SparseXP):
    """nn_pruning's experiment for question answering, as far as its file formats need it."""

    CONSTRUCTOR = BertForQuestionAnswering
    LOGIT_NAMES = ("start_logits", "end_logits")

    @classmethod
    def _model_init(cls, model_args: Any, model_config: dict[str, Any]) -> BertForQuestionAnswering:
        return BertForQuestionAnswering(BertConfig(**model_config))


def dead_heads(layer: int, method: str) -> list[int]:
    """Heads whose four matrices are masked throughout: none to three of them, or the share that top-k masks."""
    count = 1 if method == "topK" else layer % HEADS
    return [(layer + step) % HEADS for step in range(count)]


def score_fill(name: str, scores: torch.Tensor, method: str, generator: torch.Generator) -> torch.Tensor:
    """Scores of a matrix: those of dead heads masked, others at random, all different so that top-k has no ties."""
    layer = int(name.split(".layer.")[1].split(".")[0])
    filled = torch.where(torch.rand(scores.shape, generator=generator) < 0.75, KEPT, MASKED)
    if "attention" in name:
        axis = 1 if "attention.output" in name else 0  # the axis of the heads
        heads = filled if axis == 0 else filled.T
        heads[:, 0] = KEPT  # no head that is alive loses its queries or keys: nn_pruning would drop that one too
        heads[dead_heads(layer, method)] = MASKED
    return filled + 0.1 * torch.rand(scores.shape, generator=generator)


def training_model(settings: dict[str, Any], seed: int) -> tuple[BertForQuestionAnswering, SparseTrainingArguments]:
    """A patched model in evaluation mode, with random weights, biases and scores."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,  # nn_pruning pads to that
        max_position_embeddings=32,
        architectures=["BertForQuestionAnswering"],
    )
    args = SparseTrainingArguments(dense_block_rows=1, dense_block_cols=1, bias_mask=True, **settings)
    model = BertForQuestionAnswering(config)
    coordinator = ModelPatchingCoordinator(
        args, device="cpu", cache_dir=None, logit_names=Experiment.LOGIT_NAMES, teacher_constructor=None
    )
    coordinator.patch_model(model)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("mask_scores"):
            tensor.copy_(score_fill(name, tensor, args.attention_pruning_method, generator))
        elif name.endswith("accumulator"):  # sums of means and variances, and how many were summed
            tensor.copy_(torch.tensor([0.3, 5.0, 4.0]))
        else:
            tensor.copy_(1 + 0.1 * noise if name.endswith("LayerNorm.weight") else 0.3 * noise)
    coordinator.schedule_threshold()
    return model.eval(), args


def exact_logits(model: BertForQuestionAnswering, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits [2, B, S] in float64. nn_pruning makes some of its masks in the default type while it runs."""
    torch.set_default_dtype(torch.float64)
    try:
        return logits(copy.deepcopy(model).double(), batch)
    finally:
        torch.set_default_dtype(torch.float32)


def store_training(model: BertForQuestionAnswering, args: SparseTrainingArguments, folder: Path) -> None:
    """Store a model in training the way nn_pruning's experiments do it."""
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "sparse_args.json").write_text(json.dumps(asdict(args), indent=1) + "\n", encoding="utf-8")
    (folder / "model_args.json").write_text(json.dumps({"model_name_or_path": "random"}) + "\n", encoding="utf-8")
    write_tokenizer(folder, VOCABULARY)


def store_optimised(model: BertForQuestionAnswering, folder: Path) -> None:
    folder.mkdir()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write_tokenizer(folder, VOCABULARY)


def record(folder: Path, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Write all formats below a folder; inputs, and logits [2, B, S] of each format."""
    model, args = training_model(settings, seed)
    batch = inputs(seed)
    found = {"training": exact_logits(model, batch)}
    store_training(model, args, folder / "training")
    compiled = Experiment.compile_model(folder / "training", folder / "compiled").eval()
    found["compiled"] = exact_logits(compiled, batch)
    optimised = optimize_model(compiled, "dense")
    found["optimised"] = exact_logits(optimised, batch)
    store_optimised(optimised, folder / "optimised")
    if "layer_norm_patch" not in settings:  # transformers 4 itself would read a no_norm model as one with LayerNorm
        published = Experiment.final_fine_tune_bertarize(folder / "optimised", folder / "published").eval()
        found["published"] = exact_logits(published, batch)
    return {
        "inputs": {name: tensor.tolist() for name, tensor in batch.items()},
        "parameters": sum(parameter.numel() for parameter in optimised.parameters()),
        "logits": {name: values.tolist() for name, values in found.items()},
    }


def main(out: str) -> None:
    target = Path(out)
    shutil.rmtree(target, ignore_errors=True)
    cases = {}
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        folder = target / name.replace(" ", "-")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for every matrix
            cases[name] = {"folder": folder.name, **record(folder, settings, seed)}
        first, *others = (torch.tensor(values) for values in cases[name]["logits"].values())
        real = torch.tensor(cases[name]["inputs"]["attention_mask"]).bool()
        worst = max((first - other).abs()[:, real].max().item() for other in others)
        sys.stderr.write(f"{name}: nn_pruning's own formats differ by up to {worst:.2g}\n")
    document = provenance("torch", "transformers", "nn_pruning") | {"cases": cases}
    (target / "results.json").write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
