"""nn_pruning's training checkpoints: every rule against one written out entry by entry, and every refusal."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.formats.replica import Weights
from densepack_models.formats.score_masks import top_mask
from densepack_models.formats.sparse_args import sparse_settings
from densepack_models.formats.training_masks import mask_from_scores
from densepack_models.packing import pack
from densepack_runtime.errors import CheckpointError
from densepack_runtime.structure import Structure
from tests.models.formats.planted_checkpoints import SMALL, Planted, layer

# Masks of 0 and 1 are exact. L0's are 1.2 · sigmoid - 0.1 of float32 scores, off by 1e-7 against float64, times weights
# of 0.1 at most.
L0_TOLERANCE = 1e-8

# The published models' settings, with blocks that fit a hidden size of 32 and 24 FFN units.
HYBRID: dict[str, Any] = {
    "mask_scores_learning_rate": 0.01,
    "dense_pruning_method": "sigmoied_threshold:1d_alt",
    "attention_pruning_method": "sigmoied_threshold",
    "ampere_pruning_method": "disabled",
    "attention_output_with_dense": False,
    "bias_mask": True,
    "dense_block_rows": 1,
    "dense_block_cols": 1,
    "attention_block_rows": 8,
    "attention_block_cols": 4,
    "initial_threshold": 0,
    "final_threshold": 0.5,
    "linear_min_parameters": 0.005,
    "regularization": "l1",
    "layer_norm_patch": False,
    "gelu_patch": False,
    "rewind_model_name_or_path": None,
    "final_finetune": False,
}
BLOCKS = HYBRID | {"dense_pruning_method": "sigmoied_threshold", "dense_block_rows": 4, "dense_block_cols": 8}
# Two layers, so that names of one layer and of all are told apart.
DENSE = Structure(
    vocab_size=128,
    max_position_embeddings=40,
    type_vocab_size=2,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=24,
    layers=(layer((0, 1, 2, 3), tuple(range(24))),) * 2,
)
MATRICES = {
    "attention.self.query": (32, 32),
    "attention.self.key": (32, 32),
    "attention.self.value": (32, 32),
    "attention.output.dense": (32, 32),
    "intermediate.dense": (24, 32),
    "output.dense": (32, 24),
}
FIRST, SECOND = "intermediate.dense", "output.dense"


def scores_name(index: int, matrix: str, number: int = 0) -> str:
    return f"bert.encoder.layer.{index}.{matrix}.mask_module.context_modules.{number}.mask_scores"


def block_of(matrix: str, args: dict[str, Any]) -> tuple[int, int]:
    """Block of a matrix as nn_pruning chooses it; that of the attention output is transposed."""
    attention = (args["attention_block_rows"], args["attention_block_cols"])
    dense = (args["dense_block_rows"], args["dense_block_cols"])
    if matrix == "attention.output.dense":
        return dense if args.get("attention_output_with_dense", True) else attention[::-1]
    return attention if "attention" in matrix else dense


class Training(Planted):
    """A training checkpoint: random weights with biases, random scores."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(DENSE)
        self.config.pop("pruned_heads")
        self.args = dict(args)
        generator = torch.Generator().manual_seed(11)
        for index, (matrix, shape) in product(range(2), MATRICES.items()):
            dense = "attention" not in matrix
            method = args["dense_pruning_method" if dense else "attention_pruning_method"]
            rows, columns = block_of(matrix, args)
            if method != "disabled" and ":1d" not in method:
                grid = (shape[0] // rows, shape[1] // columns)
                scores = 3 * torch.randn(grid, generator=generator)
                scores[0] = -9  # a row of blocks without any survivor
                self.tensors[scores_name(index, matrix)] = scores
        for index in range(2):
            if args["dense_pruning_method"].endswith(":1d_alt"):
                vector = torch.randn(24, generator=generator)
                self.tensors[scores_name(index, FIRST, 0)] = vector
                self.tensors[scores_name(index, SECOND, 1)] = vector.clone()

    def write(self, folder: Path, weights: Weights = "bin", shards: int = 1) -> Path:
        super().write(folder, weights, shards)
        (folder / "sparse_args.json").write_text(json.dumps(self.args))
        return folder


def stored(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Its tensors as files call them."""
    return checkpoint.family.file_names(checkpoint.tensors)


def load(training: Training, tmp_path: Path) -> Checkpoint:
    return load_checkpoint(training.write(tmp_path / "c"))


def refusal(training: Training, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(training, tmp_path)
    return str(caught.value)


def expected_grid(scores: list[float], method: str, threshold: float) -> list[float]:
    """The rule for each score by itself, in Python's floats."""
    if method == "topK":
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        kept = set(order[: int(threshold * len(scores))])
        return [float(place in kept) for place in range(len(scores))]
    if method == "threshold":
        return [float(score > threshold) for score in scores]
    sigmoids = [1 / (1 + math.exp(-score)) for score in scores]
    if method == "l0":
        return [min(1.0, max(0.0, 1.2 * value - 0.1)) for value in sigmoids]
    return [float(value > threshold) for value in sigmoids]


def masked_by_hand(weight: Tensor, bias: Tensor, mask: list[list[float]], with_bias: bool) -> tuple[Tensor, Tensor]:
    """Entry by entry: W[i, j] · M[i, j]; b[i] where row i of M has anything."""
    rows = [[float(weight[i, j]) * mask[i][j] for j in range(weight.shape[1])] for i in range(weight.shape[0])]
    kept = [float(bias[i]) if any(mask[i]) or not with_bias else 0.0 for i in range(len(bias))]
    return torch.tensor(rows), torch.tensor(kept)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("method", "threshold"), [("sigmoied_threshold", 0.6), ("threshold", 0.3), ("topK", 0.37), ("l0", 0.5)]
)
def test_block_masks_entry_by_entry(tmp_path: Path, method: str, threshold: float, with_bias: bool) -> None:
    training = Training(BLOCKS)
    training.args |= {
        "attention_pruning_method": method,
        "dense_pruning_method": method,
        "final_threshold": threshold,
        "bias_mask": with_bias,
    }
    checkpoint = load(training, tmp_path)
    for index, (matrix, shape) in product(range(2), MATRICES.items()):
        (rows, columns), grid = block_of(matrix, BLOCKS), training.tensors[scores_name(index, matrix)]
        kept = expected_grid(grid.flatten().tolist(), method, threshold)
        width = grid.shape[1]
        mask = [[kept[(i // rows) * width + j // columns] for j in range(shape[1])] for i in range(shape[0])]
        prefix = f"bert.encoder.layer.{index}.{matrix}."
        weight, bias = masked_by_hand(
            training.tensors[f"{prefix}weight"], training.tensors[f"{prefix}bias"], mask, with_bias
        )
        tolerance = L0_TOLERANCE if method == "l0" else 0
        torch.testing.assert_close(stored(checkpoint)[f"{prefix}weight"], weight, rtol=0, atol=tolerance)
        assert torch.equal(stored(checkpoint)[f"{prefix}bias"], bias)
        assert 0 < int((weight == 0).sum()) < weight.numel()
        assert bool(bias.all()) != with_bias


def test_hybrid_masks_rows_and_columns_of_the_ffn_together(tmp_path: Path) -> None:
    training = Training(HYBRID)
    checkpoint = load(training, tmp_path)
    assert not any("mask_scores" in name for name in checkpoint.tensors)
    assert "FFN sigmoied_threshold in blocks of 1x1" in checkpoint.notes[0]
    packed = pack(checkpoint)
    for index in range(2):
        alive = tuple((training.tensors[scores_name(index, FIRST)] > 0).nonzero().flatten().tolist())  # sigmoid > 0.5
        assert packed.structure.layers[index].ffn_units == alive
        assert packed.structure.layers[index].folded_units == 0  # biases are masked too
        first = checkpoint.tensors[f"layer.{index}.ffn.intermediate.weight"]
        assert torch.equal(
            first[list(alive)], training.tensors[f"bert.encoder.layer.{index}.{FIRST}.weight"][list(alive)]
        )
    assert checkpoint.ffn_positions == "original"


def test_a_vector_that_is_stored_once(tmp_path: Path) -> None:
    """safetensors files keep one of two names for the same tensor."""
    expected = load(Training(HYBRID), tmp_path)
    for index, (matrix, number) in enumerate(((FIRST, 0), (SECOND, 1))):
        training = Training(HYBRID)
        for number_of_layer in range(2):
            del training.tensors[scores_name(number_of_layer, matrix, number)]
        checkpoint = load_checkpoint(training.write(tmp_path / str(index), "safetensors"))
        assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in checkpoint.tensors.items())


def test_one_dimensional_scores_of_both_axes_are_multiplied(tmp_path: Path) -> None:
    args = HYBRID | {"dense_pruning_method": "threshold:1d", "final_threshold": 0.2}
    args |= {"attention_output_with_dense": True, "attention_pruning_method": "disabled"}
    training = Training(args)
    generator = torch.Generator().manual_seed(5)
    for index in range(2):
        layer_input, before, between, after = (torch.randn(size, generator=generator) for size in (32, 32, 24, 32))
        vectors = {
            (output := "attention.output.dense"): (before, layer_input),
            FIRST: (between, before),
            SECOND: (after, between),
        }
        for matrix, (row, column) in vectors.items():
            training.tensors[scores_name(index, matrix, 0)] = row.clone()
            training.tensors[scores_name(index, matrix, 1)] = column.clone()
        assert output in vectors
    checkpoint = load(training, tmp_path)
    row, column = (training.tensors[scores_name(1, SECOND, number)] for number in (0, 1))
    kept = torch.tensor([[float(r * c > 0.2) for c in column] for r in row])
    weight = training.tensors["bert.encoder.layer.1.output.dense.weight"]
    assert torch.equal(checkpoint.tensors["layer.1.ffn.output.weight"], weight * kept)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    assert torch.equal(stored(checkpoint)[query], training.tensors[query])


def test_attention_output_masked_like_the_ffn(tmp_path: Path) -> None:
    args = HYBRID | {"attention_output_with_dense": True}
    training = Training(HYBRID)
    training.args = args
    for index in range(2):
        del training.tensors[scores_name(index, "attention.output.dense")]
        training.tensors[scores_name(index, "attention.output.dense", 1)] = torch.arange(32.0) - 15.5
    checkpoint = load(training, tmp_path)
    output = checkpoint.tensors["layer.0.attention.output.weight"]
    assert not output[:, :16].any()
    assert output[:, 16:].all()
    assert pack(checkpoint).structure.layers[0].heads == (2, 3)


def test_magnitude_needs_no_scores(tmp_path: Path) -> None:
    training = Training(HYBRID)
    training.args |= {"dense_pruning_method": "magnitude", "final_threshold": 0.25}
    for index in range(2):
        del training.tensors[scores_name(index, FIRST, 0)], training.tensors[scores_name(index, SECOND, 1)]
    weight = load(training, tmp_path).tensors["layer.0.ffn.intermediate.weight"]
    before = training.tensors["bert.encoder.layer.0.intermediate.dense.weight"].abs()
    assert int((weight != 0).sum()) == 192  # 0.25 of 24 x 32
    assert before[weight != 0].min() > before[weight == 0].max()


# --- the rule on its own ---


def test_a_floor_of_survivors_even_when_all_scores_tie() -> None:
    scores = torch.zeros(1000)
    assert int(mask_from_scores(scores, "sigmoied_threshold", 0.9).sum()) == 6  # floor(0.005 * 1000) + 1
    scores[500:520] = torch.arange(20.0) / 100
    kept = mask_from_scores(scores, "threshold", 0.5).nonzero().flatten().tolist()
    assert kept == [514, 515, 516, 517, 518, 519]
    assert int(mask_from_scores(scores, "threshold", 0.5, least_share=0).sum()) == 0
    assert int(mask_from_scores(torch.zeros(1000), "sigmoied_threshold", 0.1).sum()) == 1000


def test_a_score_at_the_threshold_is_out() -> None:
    assert mask_from_scores(torch.tensor([0.0, 1e-3]), "sigmoied_threshold", 0.5).tolist() == [0, 1]


def test_the_first_of_equal_scores_win() -> None:
    assert top_mask(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), 2).tolist() == [[1, 1], [0, 0]]
    assert top_mask(torch.ones(3), 0).tolist() == [0, 0, 0]


# --- what training turned into something else ---


def test_norms_and_activation_that_training_replaced(tmp_path: Path) -> None:
    training = Training(HYBRID)
    training.args |= {"layer_norm_patch": True, "gelu_patch": True}
    names = [name for name in training.tensors if name.endswith("LayerNorm.weight")]
    for name in names:  # sums over 4 batches: mean 0.5, variance 2.25
        training.tensors[name.replace("weight", "accumulator")] = torch.tensor([2.0, 9.0, 4.0])
    checkpoint = load(training, tmp_path)
    assert (checkpoint.config["layer_norm_type"], checkpoint.config["hidden_act"]) == ("no_norm", "relu")
    name = "bert.encoder.layer.1.output.LayerNorm."
    weight, bias = training.tensors[f"{name}weight"], training.tensors[f"{name}bias"]
    hidden = torch.randn(5, 32)
    expected = (hidden - 0.5) / math.sqrt(2.25 + 1e-12) * weight + bias
    ours = hidden * stored(checkpoint)[f"{name}weight"] + stored(checkpoint)[f"{name}bias"]
    torch.testing.assert_close(ours, expected)
    assert len(names) == 5
    assert not any("accumulator" in name for name in checkpoint.tensors)


def test_norms_without_statistics(tmp_path: Path) -> None:
    training = Training(HYBRID)
    training.args |= {"layer_norm_patch": True}
    training.tensors["bert.embeddings.LayerNorm.accumulator"] = torch.zeros(3)
    message = refusal(training, tmp_path)
    assert "bert.embeddings.LayerNorm.accumulator is [0.0, 0.0, 0.0]" in message
    assert "bert.encoder.layer.1.output.LayerNorm.accumulator is missing" in message


# --- refusals ---


def test_scores_without_settings_are_refused(tmp_path: Path) -> None:
    folder = Training(HYBRID).write(tmp_path / "c")
    (folder / "sparse_args.json").unlink()
    with pytest.raises(CheckpointError, match=r"sparse_args\.json is missing .* nobody knows which of them count"):
        load_checkpoint(folder)


def test_settings_without_scores_change_nothing(tmp_path: Path) -> None:
    """A compiled model keeps the file of its training beside it."""
    folder = Planted(SMALL).write(tmp_path / "c")
    (folder / "sparse_args.json").write_text(json.dumps(HYBRID))
    assert load_checkpoint(folder).notes == ()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"dense_pruning_method": "wanda"}, "dense_pruning_method 'wanda' is not supported, only sigmoied_threshold"),
        ({"dense_pruning_method": "topK:2d"}, "dense_pruning_method 'topK:2d' is not supported"),
        ({"dense_pruning_method": None}, "dense_pruning_method is None, a text is needed"),
        ({"attention_pruning_method": "topK:joint"}, "attention_pruning_method 'topK:joint' is not supported"),
        ({"attention_pruning_method": "topK:1d"}, "attention_pruning_method has the form '1d'"),
        ({"ampere_pruning_method": "annealing"}, "ampere_pruning_method 'annealing' is not supported"),
        ({"rewind_model_name_or_path": "other"}, "the heads of that other model took part"),
        ({"dense_block_rows": 0}, "dense_block_rows is 0"),
        ({"attention_block_cols": "4"}, "attention_block_cols is '4'"),
        ({"final_threshold": 1e308}, "final_threshold is 1e+308, a number from -1e+06"),
        ({"linear_min_parameters": -1}, "linear_min_parameters is -1, a number from 0 to 1 is needed"),
        ({"final_threshold": None}, "final_threshold is None, a number from -1e+06 to 1e+06 is needed"),
        ({"final_threshold": math.nan}, "final_threshold is nan"),
        ({"linear_min_parameters": True}, "linear_min_parameters is True"),
        ({"bias_mask": "yes"}, "bias_mask is 'yes', true or false"),
    ],
)
def test_settings_that_cannot_be_honoured(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        sparse_settings(HYBRID | change)
    assert fault in str(caught.value)


def test_settings_that_are_missing_are_all_named() -> None:
    with pytest.raises(CheckpointError) as caught:
        sparse_settings({"attention_pruning_method": "disabled"})
    assert "dense_pruning_method is missing; final_threshold is missing" in str(caught.value)


def test_older_settings_leave_biases_alone() -> None:
    optional = ("bias_mask", "attention_output_with_dense", "linear_min_parameters", "layer_norm_patch", "gelu_patch")
    settings = sparse_settings({name: value for name, value in HYBRID.items() if name not in optional})
    assert not settings.mask_biases
    assert settings.attention_output == settings.ffn
    assert settings.least_share == 0.005


def test_all_faults_of_scores_are_named_with_the_others(tmp_path: Path) -> None:
    training = Training(HYBRID)
    del training.tensors[scores_name(0, "attention.self.key")]
    training.tensors[scores_name(1, "attention.self.key")] = torch.ones(3, 8)
    training.tensors[scores_name(1, FIRST, 1)] = torch.ones(32)
    training.tensors[scores_name(0, "attention.self.value")][0, 0] = torch.nan
    training.tensors["bert.encoder.layer.0.output.dense.ampere_module.ampere_pattern"] = torch.ones(6, 4)
    del training.tensors["qa_outputs.bias"]
    message = refusal(training, tmp_path)
    assert f"{scores_name(0, 'attention.self.key')} is missing" in message
    assert f"{scores_name(1, 'attention.self.key')} is [3, 8] instead of [4, 8]" in message
    assert f"{scores_name(0, 'attention.self.value')} has 1 of 32 values that are not finite" in message
    assert "ampere_pattern [6, 4] is unexpected" in message
    assert "qa_outputs.bias is missing" in message


def test_scores_that_no_rule_uses_are_unexpected(tmp_path: Path) -> None:
    training = Training(HYBRID)
    training.args |= {"dense_pruning_method": "disabled"}
    assert f"{scores_name(0, FIRST)} [24] is unexpected" in refusal(training, tmp_path)


def test_blocks_that_do_not_divide_the_matrix(tmp_path: Path) -> None:
    training = Training(HYBRID)
    training.args |= {"attention_block_rows": 5}
    assert "attention.self.query.weight [32, 32] does not divide into blocks of [5, 4]" in refusal(training, tmp_path)
