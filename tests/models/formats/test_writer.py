"""What is written reads back: bit for bit in densepack's format, the same function in the published one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from densepack_models.formats import writer as checkpoint_writer
from densepack_models.formats.checkpoint import STRUCTURE_FILE, load_checkpoint
from densepack_models.formats.replica import letter_tokenizer
from densepack_models.formats.writer import CARD, RECORD, write_packed, write_transformers
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.weights import tensors_from_module
from densepack_runtime.errors import CheckpointError, InputError
from tests.models.formats.planted_checkpoints import SMALL, UNEVEN, Planted

TOKENIZER = letter_tokenizer(128)


@pytest.fixture
def packed(tmp_path: Path) -> PackedBertForQuestionAnswering:
    """Two heads of layer 0, none of layer 1; five scattered units, three, none."""
    return pack(load_checkpoint(Planted(SMALL, "full").write(tmp_path / "source")))


def equal(a: PackedBertForQuestionAnswering, b: PackedBertForQuestionAnswering) -> bool:
    names = {name for name, _ in a.named_parameters()}
    return names == {name for name, _ in b.named_parameters()} and all(
        torch.equal(parameter, b.get_parameter(name)) for name, parameter in a.named_parameters()
    )


# --- packed ---


@pytest.mark.parametrize("pad_to", [1, 8])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", ["published", "full", "cut"])
def test_load_pack_write_load_pack_is_bit_for_bit(
    tmp_path: Path, layout: Any, stored: torch.dtype, pad_to: int
) -> None:
    planted = Planted(SMALL, layout)
    planted.tensors = {name: tensor.to(stored) for name, tensor in planted.tensors.items()}
    module = pack(load_checkpoint(planted.write(tmp_path / "source")), pad_to=pad_to)
    write_packed(module, tmp_path / "packed", tokenizer_json=TOKENIZER)
    again = pack(load_checkpoint(tmp_path / "packed"))
    assert again.structure == module.structure
    assert again.config == module.config
    assert equal(again, module)
    write_packed(again, tmp_path / "twice", tokenizer_json=TOKENIZER)
    for path in (tmp_path / "packed").iterdir():
        assert (tmp_path / "twice" / path.name).read_bytes() == path.read_bytes()


def test_packed_files(tmp_path: Path, packed: PackedBertForQuestionAnswering) -> None:
    write_packed(packed, tmp_path / "packed", tokenizer_json="{}\r\n")
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert names == ["config.json", "model.safetensors", "structure.json", "tokenizer.json"]
    assert (tmp_path / "packed" / "tokenizer.json").read_bytes() == b"{}\r\n"
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == packed.structure.parameters
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(stored[query], packed.unscaled_queries[0][0])  # 1/sqrt(d) is not in the file


def test_a_module_without_configuration_gets_one(tmp_path: Path) -> None:
    module = PackedBertForQuestionAnswering(SMALL)
    write_packed(module, tmp_path / "packed", tokenizer_json=TOKENIZER)
    assert load_checkpoint(tmp_path / "packed").structure == SMALL


# --- published ---


def test_published_files_are_those_of_the_published_format(
    tmp_path: Path, packed: PackedBertForQuestionAnswering
) -> None:
    write_transformers(packed, tmp_path / "out", tokenizer_json=TOKENIZER)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pruned_heads"] == {"0": [0, 2], "1": [1, 2, 3], "2": [3]}
    assert config["architectures"] == ["BertForQuestionAnswering"]
    assert config["dtype"] == "float32"
    stored = load_file(tmp_path / "out" / "model.safetensors")
    prefix = "bert.encoder.layer.1."
    assert stored[f"{prefix}attention.self.value.weight"].shape == (8, 32)
    assert not stored[f"{prefix}attention.output.dense.weight"].any()
    assert stored[f"{prefix}attention.output.dense.bias"].all()  # what an attention without heads still adds
    first = stored["bert.encoder.layer.0.intermediate.dense.weight"]
    assert first.shape == (24, 32)
    assert first.any(1).nonzero().flatten().tolist() == [0, 2, 3, 7, 20]
    assert stored["bert.encoder.layer.2.output.dense.weight"].shape == (32, 24)
    padded = tuple(replace(layer, ffn_width=24) for layer in packed.structure.layers)
    parameters = replace(packed.structure, layers=padded).parameters
    assert sum(tensor.numel() for tensor in stored.values()) == parameters + 4 * 8 * 32 + 24


@pytest.mark.parametrize("layout", ["published", "full", "cut"])
def test_published_format_packs_to_the_same_again(tmp_path: Path, layout: Any) -> None:
    module = pack(load_checkpoint(Planted(SMALL, layout).write(tmp_path / "source")), pad_to=4)
    write_transformers(module, tmp_path / "out", tokenizer_json=TOKENIZER)
    again = pack(load_checkpoint(tmp_path / "out"), pad_to=4)
    assert again.structure.layers == module.structure.layers
    assert again.structure.head_ids == module.structure.head_ids
    assert again.structure.ffn_positions == module.structure.ffn_positions
    assert equal(again, module)


def test_live_units_of_the_published_format_stay_in_front(tmp_path: Path) -> None:
    module = pack(load_checkpoint(Planted(UNEVEN).write(tmp_path / "source")))
    write_transformers(module, tmp_path / "out", tokenizer_json=TOKENIZER)
    first = load_file(tmp_path / "out" / "model.safetensors")["bert.encoder.layer.0.intermediate.dense.weight"]
    assert first.any(1).tolist() == [True] * 5 + [False] * 19


def test_no_norm_and_activation_survive(tmp_path: Path) -> None:
    planted = Planted(SMALL)
    planted.config |= {"layer_norm_type": "no_norm", "hidden_act": "relu", "torch_dtype": "float64"}
    module = pack(load_checkpoint(planted.write(tmp_path / "source")))
    write_transformers(module, tmp_path / "out", tokenizer_json=TOKENIZER)
    config = load_checkpoint(tmp_path / "out").config
    assert (config["layer_norm_type"], config["hidden_act"]) == ("no_norm", "relu")
    assert "torch_dtype" not in config


def test_float16(tmp_path: Path, packed: PackedBertForQuestionAnswering) -> None:
    write_transformers(packed, tmp_path / "out", tokenizer_json=TOKENIZER, dtype=torch.float16)
    checkpoint = load_checkpoint(tmp_path / "out")
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}
    assert checkpoint.config["dtype"] == "float16"
    assert pack(checkpoint).structure.layers == packed.structure.layers
    expected = tensors_from_module(packed)["qa_outputs.weight"].half()
    assert torch.equal(checkpoint.tensors["qa_outputs.weight"], expected)


def test_values_beyond_float16_are_named(tmp_path: Path, packed: PackedBertForQuestionAnswering) -> None:
    packed.get_parameter("qa_outputs.bias").data[0] = 7e4
    with pytest.raises(CheckpointError, match=r"beyond the range of float16 in qa_outputs\.bias: write float32"):
        write_transformers(packed, tmp_path / "out", tokenizer_json=TOKENIZER, dtype=torch.float16)
    assert not (tmp_path / "out").exists()


def test_other_types_are_refused(tmp_path: Path, packed: PackedBertForQuestionAnswering) -> None:
    with pytest.raises(InputError, match=r"bfloat16 cannot be written, only torch\.float32 and torch\.float16"):
        write_transformers(packed, tmp_path / "out", tokenizer_json=TOKENIZER, dtype=torch.bfloat16)


# --- nothing half-written ---


@pytest.mark.parametrize("write", [write_packed, write_transformers])
@pytest.mark.parametrize("failing", ["save_file", "write_json", "write_text"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_writing_fails(
    tmp_path: Path,
    packed: PackedBertForQuestionAnswering,
    monkeypatch: pytest.MonkeyPatch,
    write: Any,
    failing: str,
    error: BaseException,
) -> None:
    before = sorted(tmp_path.iterdir())
    real = getattr(checkpoint_writer, failing)

    def fail_at_the_end(*args: Any, **keywords: Any) -> None:
        real(*args, **keywords)
        raise error

    monkeypatch.setattr(checkpoint_writer, failing, fail_at_the_end)
    with pytest.raises(type(error)):
        write(packed, tmp_path / "out", tokenizer_json=TOKENIZER)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("write", [write_packed, write_transformers])
def test_only_a_checkpoint_of_densepack_is_replaced(
    tmp_path: Path, packed: PackedBertForQuestionAnswering, write: Any
) -> None:
    out = tmp_path / "out"
    write(packed, out, tokenizer_json=TOKENIZER)
    for name in (RECORD, CARD, "heads.svg"):
        (out / name).touch()
    with pytest.raises(InputError, match="exists already"):
        write(packed, out, tokenizer_json=TOKENIZER)
    write(packed, out, tokenizer_json=TOKENIZER, overwrite=True)
    assert load_checkpoint(out)
    assert not (out / RECORD).exists()

    (out / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes\.txt, which densepack does not write"):
        write(packed, out, tokenizer_json=TOKENIZER, overwrite=True)
    (out / "config.json").write_text("{}")  # as of a model from elsewhere
    (out / STRUCTURE_FILE).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"holds config\.json, model\.safetensors, notes\.txt and"):
        write(packed, out, tokenizer_json=TOKENIZER, overwrite=True)
    assert (out / "notes.txt").exists()
