"""The packed module: its types, its mask, and that it does what transformers does for every activation and norm."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from densepack_models.packed_bert import NoNorm, PackedBertForQuestionAnswering
from densepack_models.packing import logit_difference, pack
from densepack_models.reference import reference_module
from densepack_models.torch_session import TorchSession
from densepack_models.weights import module_from_tensors, tensors_from_module
from densepack_runtime.errors import BackendError, CheckpointError
from densepack_runtime.sessions.session import Batch, Session
from densepack_runtime.structure import Structure
from tests.models.tiny_checkpoints import tiny_checkpoint

FP64_TOLERANCE = 1e-10
# Half of the tiny model's logits (about 10) have a spacing of 8e-3; a few roundings on the way add up.
FP16_TOLERANCE = 0.1
# The same float32 sums in another order; logits are about 10.
COMPILED_TOLERANCE = 1e-4


def make_inputs(rows: int = 3, length: int = 11, vocabulary: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(length) < torch.tensor([[length], [length - 3], [1]])[:rows]).long()
    ids = torch.randint(1, vocabulary, (rows, length), generator=generator) * mask
    return ids, mask, (torch.arange(length) > 3).long() * mask


@pytest.mark.parametrize("norm", ["layer_norm", "no_norm"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_equals_transformers(activation: str, norm: str) -> None:
    checkpoint = tiny_checkpoint(seed=4, hidden_act=activation, layer_norm_type=norm)
    assert logit_difference(checkpoint, pack(checkpoint, dtype=torch.float64)) < FP64_TOLERANCE


def test_reference_keeps_what_was_cut_as_zeros() -> None:
    checkpoint = tiny_checkpoint(seed=4)
    tensors = dict(checkpoint.tensors)
    block = "layer.0.attention"
    for name in ("query", "key", "value"):
        for part in ("weight", "bias"):
            tensors[f"{block}.{name}.{part}"] = tensors[f"{block}.{name}.{part}"][8:24]  # heads 1 and 2
    tensors[f"{block}.output.weight"] = tensors[f"{block}.output.weight"][:, 8:24]
    cut = replace(checkpoint, tensors=tensors, heads=((1, 2), (0, 1, 2, 3)))
    state = reference_module(cut).model.state_dict()
    query = state["bert.encoder.layer.0.attention.self.query.weight"]
    assert query.shape == (32, 32)
    assert not query[:8].any()
    assert torch.equal(query[8:24], tensors[f"{block}.query.weight"])
    assert not state["bert.encoder.layer.0.attention.output.dense.weight"][:, 24:].any()
    assert logit_difference(cut, pack(cut, dtype=torch.float64)) < FP64_TOLERANCE


def test_padding_changes_no_real_logit() -> None:
    packed = pack(tiny_checkpoint(seed=4), dtype=torch.float64)
    ids, mask, types = make_inputs()
    with torch.inference_mode():
        together = packed(ids, mask, types)[0]
        alone = packed(ids[1:2, :8], mask[1:2, :8], types[1:2, :8])[0]
    assert torch.allclose(together[1, :8], alone[0], atol=FP64_TOLERANCE, rtol=0)


def test_a_fully_masked_row_gives_numbers() -> None:
    packed = pack(tiny_checkpoint(seed=4)).typed_fp16()
    ids, mask, types = make_inputs()
    with torch.inference_mode():
        start, _ = packed(ids, torch.zeros_like(mask), types)
    assert start.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_typed_modules_have_half_products_in_float_islands(tiny_structure: Structure, dtype: torch.dtype) -> None:
    packed = PackedBertForQuestionAnswering(tiny_structure)
    half = packed.typed_fp16() if dtype is torch.float16 else packed.typed_bf16()
    seen: dict[str, torch.dtype] = {}
    for name, module in half.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm | NoNorm | nn.Embedding):
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output.dtype}))
    with torch.inference_mode():
        start, end = half(*make_inputs(vocabulary=1000))
    assert start.dtype == end.dtype == torch.float32
    norms = {name for name in seen if "norm" in name}
    assert norms
    assert all(seen[name] == torch.float32 for name in norms)
    assert all(found == dtype for name, found in seen.items() if name not in norms)


def test_typed_fp16_is_close_and_leaves_the_original_alone() -> None:
    packed = pack(tiny_checkpoint(seed=4))
    half = packed.typed_fp16()
    assert all(parameter.dtype == torch.float32 for parameter in packed.parameters())
    with torch.inference_mode():
        expected, found = packed(*make_inputs())[0], half(*make_inputs())[0]
    real = make_inputs()[1].bool()
    assert (expected - found).abs()[real].max() < FP16_TOLERANCE


def test_tensors_that_do_not_fit_are_all_named() -> None:
    packed = pack(tiny_checkpoint())
    tensors = tensors_from_module(packed)
    del tensors["qa_outputs.bias"]
    tensors["qa_outputs.weight"] = torch.zeros(3, 32)
    with pytest.raises(CheckpointError, match=r"qa_outputs.weight is \[3, 32\] instead of \[2, 32\].*bias is missing"):
        module_from_tensors(packed.structure, {}, tensors)


# --- PyTorch as a session --------------------------------------------------------------------------------


def make_batch() -> Batch:
    ids, mask, types = (tensor.numpy() for tensor in make_inputs())
    return Batch(ids, mask, types)


def test_torch_session_gives_float32_logits() -> None:
    packed = pack(tiny_checkpoint(), dtype=torch.float64)
    session = TorchSession(packed)
    assert isinstance(session, Session)
    logits = session.run(make_batch())
    assert logits.start.dtype == logits.end.dtype == np.float32
    [again] = list(session.run_many([make_batch()]))
    assert np.array_equal(again.end, logits.end)


def test_closed_torch_session_refuses_to_run() -> None:
    session = TorchSession(pack(tiny_checkpoint()))
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(make_batch())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_missing_device_is_an_error() -> None:
    with pytest.raises(BackendError, match="'cuda' was asked for"):
        TorchSession(pack(tiny_checkpoint()), device="cuda")


def test_compiling_without_a_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match=r"torch\.compile needs a C\+\+ compiler and no-such-compiler is not here"):
        TorchSession(pack(tiny_checkpoint()), compiled=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own making
def test_a_compiled_session_gives_the_same_logits() -> None:
    packed = pack(tiny_checkpoint())
    expected, found = TorchSession(packed).run(make_batch()), TorchSession(packed, compiled=True).run(make_batch())
    assert np.abs(expected.start - found.start).max() < COMPILED_TOLERANCE
