"""What config.json may say, and how everything else is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from densepack_models.families import FAMILIES
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.config import judged_config, read_config
from densepack_runtime.errors import CheckpointError
from densepack_runtime.host.strict_json import LARGEST_BYTES
from tests.models.formats.planted_checkpoints import Planted

GOOD = Planted().config


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        judged_config(config)
    return str(caught.value)


def test_what_transformers_writes_is_accepted() -> None:
    config = BertConfig(architectures=["BertForQuestionAnswering"]).to_dict()
    assert judged_config(config) == config


def test_defaults_are_filled_in_and_the_original_is_left_alone() -> None:
    config = {name: value for name, value in GOOD.items() if name not in ("hidden_act", "layer_norm_eps")}
    judged = judged_config(config)
    assert (judged["hidden_act"], judged["layer_norm_eps"]) == ("gelu", 1e-12)
    assert "hidden_act" not in config


def test_model_type_may_be_left_out_when_the_architecture_is_named() -> None:
    assert judged_config({name: value for name, value in GOOD.items() if name != "model_type"})


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        *(
            ({"model_type": kind, "architectures": [f"{name}ForQuestionAnswering"]}, f"{kind!r}, {name}For")
            for kind, name in (
                ("xlm-roberta-xl", "XLMRobertaXL"),
                ("roberta-prelayernorm", "RobertaPreLayerNorm"),
                ("deberta-v2", "DebertaV2"),
                ("mobilebert", "MobileBert"),
                ("longformer", "Longformer"),
                ("modernbert", "ModernBert"),
            )
        ),
        (GOOD | {"model_type": "albert"}, "'albert', BertForQuestionAnswering"),
        (GOOD | {"architectures": ["XLMForQuestionAnswering"]}, "'bert', XLMForQuestionAnswering"),
        ({"hidden_size": 3}, "model_type None"),
    ],
)
def test_other_architectures_are_refused_by_name(config: dict[str, Any], seen: str) -> None:
    message = refusal(config)
    assert seen in message
    assert all(family.architecture in message for family in FAMILIES)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not supported, only gelu, gelu_new, relu, gelu_python"),
        ({"hidden_act": ["gelu"]}, "hidden_act ['gelu'] is not supported"),
        ({"layer_norm_type": "rms"}, "layer_norm_type 'rms' is not supported, only layer_norm and no_norm"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0,"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12'"),
        ({"layer_norm_eps": True}, "layer_norm_eps is True"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder is set: only encoders"),
        ({"add_cross_attention": True}, "add_cross_attention is set"),
        ({"quantization_config": {"bits": 8}}, "quantised weights are not supported"),
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"type_vocab_size": 1}, "type_vocab_size is 1"),
        ({"vocab_size": "128"}, "vocab_size is '128', a whole number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 4.0}, "num_attention_heads is 4.0"),
        ({"intermediate_size": True}, "intermediate_size is True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, a whole number above 0 and up to 4096"),
        ({"num_attention_heads": 1e30}, "num_attention_heads is 1e+30"),
        ({"hidden_size": 10**30}, "hidden_size is 1000000000000000000000000000000, a whole"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"layer_norm_eps": 2}, "layer_norm_eps is 2,"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps is -1e-12"),
        ({"pad_token_id": 128}, "pad_token_id is 128, and the model has 128 word embeddings"),
        ({"pad_token_id": "0"}, "pad_token_id is '0'"),
        ({"pad_token_id": True}, "pad_token_id is True"),
        ({"pruned_heads": {"9" * 5000: [1]}}, "pruned_heads names layer '99999"),
        ({"pruned_heads": {"0": ["9" * 5000]}}, "pruned_heads of layer 0 is ['99999"),
        ({"pruned_heads": [1]}, "pruned_heads must map layers to lists of heads, it is [1]"),
        ({"pruned_heads": {"3": [1]}}, "pruned_heads names layer '3', there are layers 0 to 2"),
        ({"pruned_heads": {"x": [1]}}, "pruned_heads names layer 'x'"),
        ({"pruned_heads": {"0": [4]}}, "pruned_heads of layer 0 is [4], a list of heads 0 to 3"),
        ({"pruned_heads": {"0": 1}}, "pruned_heads of layer 0 is 1"),
        ({"pruned_heads": {"0": [1.0]}}, "pruned_heads of layer 0 is [1.0]"),
    ],
)
def test_unsupported_settings(change: dict[str, Any], fault: str) -> None:
    assert fault in refusal(GOOD | change)


@pytest.mark.parametrize("architectures", [[3], ["x" * 10**6], [["nested"]]])
def test_odd_names_of_architectures_are_shown_short(architectures: list[Any]) -> None:
    assert len(refusal(GOOD | {"architectures": architectures})) < 1000


def test_layer_norm_eps_may_be_a_whole_number() -> None:
    assert repr(judged_config(GOOD | {"layer_norm_eps": 1})["layer_norm_eps"]) == "1.0"


def test_all_faults_at_once() -> None:
    message = refusal(GOOD | {"hidden_act": "silu", "is_decoder": True, "pruned_heads": None})
    assert "silu" in message
    assert "is_decoder" in message
    assert "vocab_size is missing" in refusal({"model_type": "bert"})


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "config.json is missing in"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1]", "must hold a JSON object, it holds a list"),
        (b"", "is not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "is not JSON: Exceeds the limit"),
        (b"[" * 100_000, "is not JSON: maximum recursion"),
        (b'{"vocab_size": 1, "vocab_size": 2}', "is not JSON: the key 'vocab_size' is there twice"),
        (b'{"layer_norm_eps": NaN}', "is not JSON: the number NaN is none"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes | None, fault: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=fault):
        read_config(tmp_path)


def test_a_config_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="config.json cannot be read: it is no regular file"):
        read_config(tmp_path)


def test_a_config_that_is_huge(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(CheckpointError, match="config.json cannot be read: it has 67,108,865 bytes"):
        read_config(tmp_path)


def test_a_config_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
