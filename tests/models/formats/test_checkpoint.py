"""Every format becomes the same Checkpoint, and everything that is wrong with one is said at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from densepack_models.families.bert import BERT
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.formats.replica import Weights, letter_tokenizer, write_weights
from densepack_models.formats.writer import write_packed
from densepack_models.packing import pack
from densepack_models.reference import reference_module
from densepack_runtime.errors import CheckpointError
from tests.models.formats.planted_checkpoints import SMALL, UNEVEN, Planted, change_json

# Both sides do the same float32 arithmetic except that sums run over fewer zeros: a few last bits of logits near 1.
SAME_FUNCTION = 1e-5
LAYER = "bert.encoder.layer."


def logits(checkpoint: Checkpoint) -> Tensor:
    """Of transformers' own module at full size."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, checkpoint.config["vocab_size"], (3, 17), generator=generator)
    mask = (torch.arange(17) < torch.tensor([[17], [9], [1]])).long()
    types = (torch.arange(17) > 5).long().expand(3, 17)
    with torch.inference_mode():
        return torch.stack(reference_module(checkpoint)(ids, mask, types))


def faults_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


# --- plain ---


def plain_model() -> BertForQuestionAnswering:
    torch.manual_seed(3)
    return BertForQuestionAnswering(
        BertConfig(
            vocab_size=128,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=40,
        )
    )


def write_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(letter_tokenizer(128))
    return folder


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_plain_safetensors_are_read_as_transformers_wrote_them(tmp_path: Path, shard_size: str) -> None:
    model = plain_model()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    checkpoint = load_checkpoint(write_tokenizer(tmp_path))
    assert_plain(checkpoint, model)
    assert checkpoint.source == tmp_path.name


@pytest.mark.parametrize(("weights", "shards"), [("bin", 1), ("bin", 3), ("safetensors", 1), ("safetensors", 3)])
def test_plain_weights_in_any_file(tmp_path: Path, weights: Weights, shards: int) -> None:
    model = plain_model()
    model.config.save_pretrained(tmp_path)
    write_weights(tmp_path, model.state_dict(), weights, shards)
    assert_plain(load_checkpoint(write_tokenizer(tmp_path)), model)


def test_pickles_from_before_pytorch_1_6(tmp_path: Path) -> None:
    model = plain_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_plain(load_checkpoint(write_tokenizer(tmp_path)), model)


def assert_plain(checkpoint: Checkpoint, model: BertForQuestionAnswering) -> None:
    expected, found = model.state_dict(), BERT.file_names(checkpoint.tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())
    assert checkpoint.heads == ((0, 1, 2, 3),) * 2
    assert (checkpoint.head_ids, checkpoint.ffn_positions) == ("original", "original")
    assert checkpoint.structure is None
    assert checkpoint.notes == ()


def test_position_ids_and_pooler_are_ignored_and_old_names_understood(tmp_path: Path) -> None:
    planted = Planted()
    expected = load_checkpoint(planted.write(tmp_path / "a"))
    for name in list(planted.tensors):
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        planted.tensors[old] = planted.tensors.pop(name)
    planted.tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
    planted.tensors["bert.pooler.dense.weight"] = torch.full((32, 32), torch.nan)
    planted.tensors["bert.pooler.dense.bias"] = torch.zeros(3)
    assert_same(load_checkpoint(planted.write(tmp_path / "b")), expected)


def assert_same(checkpoint: Checkpoint, expected: Checkpoint) -> None:
    assert checkpoint.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in checkpoint.tensors.items())
    assert checkpoint.heads == expected.heads


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_stored_type(tmp_path: Path, dtype: torch.dtype) -> None:
    planted = Planted()
    planted.tensors = {name: tensor.to(dtype) for name, tensor in planted.tensors.items()}
    checkpoint = load_checkpoint(planted.write(tmp_path / "c"))
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {dtype}


# --- cut heads ---


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda pruned: {int(key): heads for key, heads in pruned.items()},
        lambda pruned: {key: heads[::-1] + heads[:1] for key, heads in pruned.items()},
        lambda pruned: {key: heads for key, heads in reversed(pruned.items()) if heads},
    ],
    ids=["int keys", "unsorted and repeated", "without empty lists"],
)
def test_published_format(tmp_path: Path, rewrite: Callable[[dict[str, list[int]]], object]) -> None:
    planted = Planted(UNEVEN)
    assert planted.config["pruned_heads"] == {"0": [0, 2], "1": [0, 1, 3], "2": []}
    planted.config["pruned_heads"] = rewrite(planted.config["pruned_heads"])
    checkpoint = load_checkpoint(planted.write(tmp_path / "c", "bin"))
    assert checkpoint.heads == ((1, 3), (2,), (0, 1, 2, 3))
    assert (checkpoint.head_ids, checkpoint.ffn_positions) == ("original", "stored")
    assert checkpoint.tensors["layer.0.attention.query.weight"].shape == (16, 32)
    assert checkpoint.tensors["layer.0.ffn.intermediate.weight"].shape == (24, 32)


def test_int_keys_in_memory_are_understood() -> None:
    from densepack_models.formats.config import judged_config, pruned_heads

    config = Planted(UNEVEN).config | {"pruned_heads": {0: [2, 0, 2], "1": [3], 2: []}}
    assert pruned_heads(judged_config(config)) == {0: {0, 2}, 1: {3}, 2: set()}


def test_all_formats_of_one_model_are_one_function(tmp_path: Path) -> None:
    published = load_checkpoint(Planted(SMALL).write(tmp_path / "published"))
    full = load_checkpoint(Planted(SMALL, "full").write(tmp_path / "full"))
    cut = load_checkpoint(Planted(SMALL, "cut").write(tmp_path / "cut"))
    assert published.heads == ((1, 3), (0,), (0, 1, 2))
    assert full.heads == ((0, 1, 2, 3),) * 3
    assert (full.head_ids, full.ffn_positions) == ("original", "original")
    assert cut.heads == ((0, 1), (), (0, 1, 2))
    assert (cut.head_ids, cut.ffn_positions) == ("stored", "stored")
    assert cut.tensors["layer.1.attention.key.weight"].shape == (0, 32)
    assert len(cut.notes) == 3
    assert "layer 0: 2 of 4 heads" in cut.notes[0]
    torch.testing.assert_close(logits(full), logits(published), rtol=0, atol=SAME_FUNCTION)
    torch.testing.assert_close(logits(cut), logits(published), rtol=0, atol=SAME_FUNCTION)


def test_layers_of_different_kinds_in_one_file(tmp_path: Path) -> None:
    planted = Planted(UNEVEN)
    expected = logits(load_checkpoint(planted.write(tmp_path / "published")))
    full = Planted(UNEVEN, "full")
    planted.tensors |= {name: full.tensors[name] for name in full.tensors if name.startswith(f"{LAYER}0.")}
    planted.config["pruned_heads"] = {"2": []}  # layer 0 has its zeros, layer 1 is cut and not named
    checkpoint = load_checkpoint(planted.write(tmp_path / "mixed"))
    assert checkpoint.heads == ((0, 1, 2, 3), (0,), (0, 1, 2, 3))
    assert checkpoint.head_ids == "stored"
    torch.testing.assert_close(logits(checkpoint), expected, rtol=0, atol=SAME_FUNCTION)


def test_listed_heads_whose_zeros_are_still_there(tmp_path: Path) -> None:
    planted = Planted(UNEVEN, "full")
    planted.config["pruned_heads"] = {"0": [0, 2], "1": [1]}
    checkpoint = load_checkpoint(planted.write(tmp_path / "c"))
    assert checkpoint.heads == ((0, 1, 2, 3),) * 3
    assert checkpoint.head_ids == "original"
    assert [note.split(":")[0] for note in checkpoint.notes] == ["layer 0", "layer 1"]


def test_contradictions_between_pruned_heads_and_shapes_are_all_named(tmp_path: Path) -> None:
    planted = Planted(UNEVEN)
    planted.config["pruned_heads"] = {"0": [1], "1": [], "2": [0]}
    message = faults_of(planted.write(tmp_path / "c"))
    assert "layer 0: pruned_heads lists [1], which leaves 3 of 4 heads, but the file holds 2" in message
    assert "layer 1: pruned_heads lists [], which leaves 4 of 4 heads, but the file holds 1" in message
    assert "layer 2: pruned_heads lists [0], but the file holds all 4 heads and of these [0] are not zero" in message


def test_all_heads_pruned_with_empty_tensors(tmp_path: Path) -> None:
    planted = Planted(SMALL, "cut")
    planted.config["pruned_heads"] = {"0": [0, 2], "1": [0, 1, 2, 3], "2": [3]}
    checkpoint = load_checkpoint(planted.write(tmp_path / "c"))
    assert checkpoint.heads == ((1, 3), (), (0, 1, 2))
    assert checkpoint.head_ids == "original"


# --- FFN ---


def test_linear_in_ffn_names_is_stripped(tmp_path: Path) -> None:
    planted = Planted(UNEVEN, "cut")
    planted.config["pruned_heads"] = Planted(UNEVEN).config["pruned_heads"]
    expected = load_checkpoint(planted.write(tmp_path / "a"))
    for name in [name for name in planted.tensors if ".dense." in name and "attention" not in name]:
        planted.tensors[name.replace(".dense.", ".dense.linear.")] = planted.tensors.pop(name)
    checkpoint = load_checkpoint(planted.write(tmp_path / "b", "bin"))
    assert_same(checkpoint, expected)
    assert (checkpoint.head_ids, checkpoint.ffn_positions) == ("original", "stored")
    assert checkpoint.tensors["layer.0.ffn.intermediate.weight"].shape == (5, 32)


def test_a_tensor_under_its_old_and_its_new_name_is_refused(tmp_path: Path) -> None:
    planted = Planted()
    planted.tensors[f"{LAYER}0.output.dense.linear.bias"] = torch.zeros(32)
    assert f"{LAYER}0.output.dense.linear.bias is there beside" in faults_of(planted.write(tmp_path / "c"))


@pytest.mark.parametrize(
    ("empty_units", "positions"),
    [((), "original"), ((23,), "stored"), ((3,), "original"), (tuple(range(24)), "stored")],
)
def test_ffn_positions_are_original_unless_live_units_were_moved_to_the_front(
    tmp_path: Path, empty_units: tuple[int, ...], positions: str
) -> None:
    planted = Planted(UNEVEN.dense(), "full")
    units = list(empty_units)
    planted.tensors[f"{LAYER}1.intermediate.dense.weight"][units] = 0
    planted.tensors[f"{LAYER}1.output.dense.weight"][:, units] = 0
    assert load_checkpoint(planted.write(tmp_path / "c")).ffn_positions == positions


# --- norms, activations ---


@pytest.mark.parametrize(
    ("stored", "known"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_new"),
        ("relu", "relu"),
        ("gelu_pytorch_tanh", "gelu_new"),
        ("gelu_python", "gelu"),
    ],
)
def test_activations(tmp_path: Path, stored: str, known: str) -> None:
    planted = Planted()
    planted.config["hidden_act"] = stored
    assert load_checkpoint(planted.write(tmp_path / "c")).config["hidden_act"] == known


def test_no_norm_is_kept_and_changes_the_function(tmp_path: Path) -> None:
    planted = Planted()
    plain = load_checkpoint(planted.write(tmp_path / "a"))
    planted.config["layer_norm_type"] = "no_norm"
    checkpoint = load_checkpoint(planted.write(tmp_path / "b"))
    assert checkpoint.config["layer_norm_type"] == "no_norm"
    assert (logits(checkpoint) - logits(plain)).abs().max() > 0.1


# --- packed ---


def test_packed_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    packed = pack(load_checkpoint(Planted(SMALL).write(tmp_path / "source")))
    write_packed(packed, tmp_path / "packed", tokenizer_json=letter_tokenizer(128))
    checkpoint = load_checkpoint(tmp_path / "packed")
    assert checkpoint.structure == packed.structure
    assert checkpoint.heads == ((1, 3), (), (0, 1, 2))
    assert checkpoint.tokenizer_json == letter_tokenizer(128)
    again = pack(checkpoint)
    assert again.structure == packed.structure
    assert again.config == packed.config
    assert all(torch.equal(a, b) for a, b in zip(packed.parameters(), again.parameters(), strict=True))
    assert logits(checkpoint).shape == (2, 3, 17)


def packed_folder(tmp_path: Path) -> Path:
    packed = pack(load_checkpoint(Planted(SMALL).write(tmp_path / "source")))
    write_packed(packed, tmp_path / "packed", tokenizer_json=letter_tokenizer(128))
    return tmp_path / "packed"


def test_packed_checkpoint_whose_files_contradict_each_other(tmp_path: Path) -> None:
    folder = packed_folder(tmp_path)
    change_json(folder / "config.json", {"hidden_size": 64, "hidden_act": "relu"})
    message = faults_of(folder)
    assert "hidden_size 32 and 64" in message
    assert "hidden_act 'gelu' and 'relu'" in message


def test_packed_checkpoint_with_impossible_structure(tmp_path: Path) -> None:
    folder = packed_folder(tmp_path)
    structure = json.loads((folder / "structure.json").read_text())
    structure["layers"][0]["heads"] = [3, 1]
    structure["layers"][1]["ffn_width"] = 1
    (folder / "structure.json").write_text(json.dumps(structure))
    message = faults_of(folder)
    assert "heads [3, 1] of 4 in layer 0" in message
    assert "3 FFN units in a width of 1 in layer 1" in message


def test_packed_checkpoint_with_tensors_of_another_shape(tmp_path: Path) -> None:
    folder = packed_folder(tmp_path)
    structure = json.loads((folder / "structure.json").read_text())
    structure["layers"][0]["heads"] = [1, 2, 3]
    (folder / "structure.json").write_text(json.dumps(structure))
    assert f"{LAYER}0.attention.self.query.weight is [16, 32] instead of [24, 32]" in faults_of(folder)


def test_structure_that_is_not_text(tmp_path: Path) -> None:
    folder = packed_folder(tmp_path)
    (folder / "structure.json").write_bytes(b"\xff\xfe")
    assert "structure.json cannot be read" in faults_of(folder)


# --- faults ---


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    planted = Planted(UNEVEN)
    tensors = planted.tensors
    del tensors["qa_outputs.bias"], tensors[f"{LAYER}1.output.LayerNorm.weight"]
    tensors["bert.encoder.layer.3.output.dense.bias"] = torch.zeros(32)
    tensors["classifier.weight"] = torch.zeros(2, 32)
    tensors[f"{LAYER}0.attention.self.value.weight"] = torch.ones(24, 32)
    tensors[f"{LAYER}0.intermediate.dense.bias"] = torch.ones(5)
    tensors["bert.embeddings.LayerNorm.bias"][3] = torch.nan
    tensors[f"{LAYER}2.output.dense.weight"][0, :2] = torch.inf
    tensors["bert.embeddings.token_type_embeddings.weight"] = torch.ones(2, 32, dtype=torch.int64)
    message = faults_of(planted.write(tmp_path / "c"))
    assert "at fault in 9 places" in message
    for fault in (
        "qa_outputs.bias is missing",
        f"{LAYER}1.output.LayerNorm.weight is missing",
        "bert.encoder.layer.3.output.dense.bias [32] is unexpected",
        "classifier.weight [2, 32] is unexpected",
        f"{LAYER}0.attention.self.value.weight is [24, 32] instead of [16, 32]",
        f"{LAYER}0.intermediate.dense.bias is [5] instead of [24]",
        "bert.embeddings.LayerNorm.bias has 1 of 32 values that are not finite",
        f"{LAYER}2.output.dense.weight has 2 of 768 values that are not finite",
        "bert.embeddings.token_type_embeddings.weight is of type int64, dense floats of 16 to 64 bits are needed",
    ):
        assert fault in message


def test_widths_that_no_model_has(tmp_path: Path) -> None:
    planted = Planted(UNEVEN)
    for name in ("query", "key", "value"):
        planted.tensors[f"{LAYER}0.attention.self.{name}.weight"] = torch.ones(12, 32)
        planted.tensors[f"{LAYER}0.attention.self.{name}.bias"] = torch.ones(12)
    planted.tensors[f"{LAYER}1.intermediate.dense.weight"] = torch.ones(30, 32)
    planted.tensors[f"{LAYER}1.output.dense.weight"] = torch.ones(32, 30)
    message = faults_of(planted.write(tmp_path / "c"))
    assert "layer 0 has attention of width 12: up to 32 in whole heads of 8" in message
    assert "layer 1 has an FFN of width 30: intermediate_size is 24" in message


def test_names_without_prefix_are_explained(tmp_path: Path) -> None:
    planted = Planted()
    planted.tensors = {name.removeprefix("bert."): tensor for name, tensor in planted.tensors.items()}
    message = faults_of(planted.write(tmp_path / "c"))
    assert "the names lack the prefix 'bert.'" in message
    assert "encoder.layer.0.output.dense.bias [32] is unexpected" in message


def test_our_own_names_mean_nothing_in_a_file(tmp_path: Path) -> None:
    planted = Planted(UNEVEN)
    query = f"{LAYER}0.attention.self.query.weight"
    planted.tensors["layer.0.attention.query.weight"] = planted.tensors.pop(query)
    message = faults_of(planted.write(tmp_path / "c"))
    assert "at fault in 2 places: layer.0.attention.query.weight [16, 32] is unexpected" in message
    assert f"{query} is missing" in message


def test_names_with_a_wrapper_are_explained(tmp_path: Path) -> None:
    planted = Planted()
    planted.tensors = {f"module.{name}": tensor for name, tensor in planted.tensors.items()}
    assert "wrapper prefix 'module.'" in faults_of(planted.write(tmp_path / "c"))


def test_a_model_without_question_answering_head_is_named(tmp_path: Path) -> None:
    planted = Planted()
    planted.config["architectures"] = ["BertForMaskedLM"]
    del planted.tensors["qa_outputs.weight"], planted.tensors["qa_outputs.bias"]
    message = faults_of(planted.write(tmp_path / "c"))
    assert message.startswith("BertForMaskedLM in c has no question-answering head")
    assert "densepack reads BertForQuestionAnswering, " in message


def test_another_architecture_name_with_exact_tensors_is_read(tmp_path: Path) -> None:
    planted = Planted()
    planted.config["architectures"] = ["BertModel"]  # a training script that never updated the field
    assert load_checkpoint(planted.write(tmp_path / "c")).heads


def test_real_checkpoint(default_checkpoint: Path, default_tokenizer_json: str) -> None:
    checkpoint = load_checkpoint(default_checkpoint)
    assert checkpoint.source == "default"
    assert [len(heads) for heads in checkpoint.heads] == [2, 6, 8, 7, 7, 4]
    assert (checkpoint.head_ids, checkpoint.ffn_positions) == ("original", "original")
    assert checkpoint.tokenizer_json == default_tokenizer_json
