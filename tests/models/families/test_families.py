"""Every family: names both ways, the same logits as transformers', the published format, and its graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from densepack_export.graphs.onnx_export import export_onnx
from densepack_models.families import FAMILIES
from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.families.family import Family
from densepack_models.families.roberta import ROBERTA
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.config import config_from_structure, structure_from_config
from densepack_models.formats.replica import random_tensors
from densepack_models.formats.writer import write_packed, write_transformers
from densepack_models.packing import logit_difference, pack
from densepack_models.pruning.student import packed_student, student_from_checkpoint
from densepack_models.reference import reference_module
from densepack_models.weights import module_from_tensors, tensors_from_module
from densepack_runtime.structure import LayerStructure
from tests.models.tiny_checkpoints import pruned_checkpoint, tiny_checkpoint, tiny_config, tokenizer_of

# Float32 rounding of two orders of summation is about 1e-6 on these sizes.
FP32_TOLERANCE = 1e-5
# One graph for each kind of embeddings: an export takes seconds, and tests/export builds a bundle of every family.
EMBEDDINGS = ((ROBERTA, "fp16"), (DISTILBERT, "fp32"), (ELECTRA, "fp16"))
FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)


@FAMILY
def test_parameters_of_transformers_are_those_of_the_packed_module(family: Family) -> None:
    checkpoint = tiny_checkpoint(family)
    reference = reference_module(checkpoint).model
    stored = [name for name, _ in reference.named_parameters()]
    ours = set(tensors_from_module(pack(checkpoint)))
    assert {family.canonical_name(name) for name in stored} == ours
    assert [family.file_name(family.canonical_name(name)) for name in stored] == stored


@FAMILY
def test_a_configuration_becomes_a_structure_and_comes_back(family: Family) -> None:
    structure = structure_from_config(tiny_config(family))
    assert structure_from_config(config_from_structure(structure, family)) == structure


@FAMILY
def test_a_model_of_embeddings_as_wide_as_its_states_has_no_projection(family: Family) -> None:
    checkpoint = tiny_checkpoint(family, embedding_size=32)
    assert not checkpoint.blank.is_projected
    assert logit_difference(checkpoint, pack(checkpoint)) < FP32_TOLERANCE


@FAMILY
def test_positions_come_from_ids_where_the_family_counts_them(family: Family) -> None:
    """With the padding token inside the text, too; the mask says otherwise, and does not count."""
    checkpoint = tiny_checkpoint(family)
    ids = torch.tensor([[0, 5, 1, 6, 2, 2, 7, 2, 1, 1]])
    inputs = ids, torch.ones_like(ids), torch.zeros_like(ids)
    pairs = zip(pack(checkpoint)(*inputs), reference_module(checkpoint)(*inputs), strict=True)
    assert max((ours - theirs).abs().max().item() for ours, theirs in pairs) < FP32_TOLERANCE


@pytest.mark.parametrize(
    ("family", "precision"), EMBEDDINGS, ids=[f"{family.model_type}-{precision}" for family, precision in EMBEDDINGS]
)
def test_the_graph_computes_what_the_module_does_up_to_the_longest_input(
    family: Family, precision: str, tmp_path: Path
) -> None:
    """`export_onnx` compares them at 1x1, at odd shapes and at the longest, and names what it finds."""
    packed = pack(tiny_checkpoint(family))
    export = export_onnx(packed, tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    assert max(entry.length for entry in export.differences) == packed.structure.longest_input


@FAMILY
def test_raw_logits_on_padded_batches_are_those_of_transformers(family: Family) -> None:
    """Padded with the family's own token, as batches are; transformers has its own positions and its own mask."""
    checkpoint = tiny_checkpoint(family, seed=4)
    pad = checkpoint.blank.position_pad_id or 0
    ids = torch.full((3, 20), pad)
    for row, length in enumerate((20, 11, 2)):
        ids[row, :length] = torch.arange(2, 2 + length)
    mask = (ids != pad).long()
    inputs = ids, mask, (torch.arange(20) > 7).long() * mask
    for ours, theirs in zip(pack(checkpoint)(*inputs), reference_module(checkpoint)(*inputs), strict=True):
        torch.testing.assert_close(ours * mask, theirs * mask, atol=FP32_TOLERANCE, rtol=0)


@FAMILY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_published_format_is_written_and_read(family: Family, dtype: torch.dtype, tmp_path: Path) -> None:
    """Heads cut and named in `pruned_heads`, FFN units back at their places in zeros, under the family's names."""
    original = pruned_checkpoint(tiny_checkpoint(family, vocab_size=400))
    packed, tokenizer_json = pack(original), tokenizer_of(family, 400)
    write_transformers(packed, tmp_path / "c", tokenizer_json=tokenizer_json, dtype=dtype)
    stored = load_file(tmp_path / "c" / "model.safetensors")
    query, first = (family.file_name(f"layer.1.{name}.weight") for name in ("attention.query", "ffn.intermediate"))
    assert (stored[query].shape, stored[first].shape) == ((16, 32), (16, 32))
    assert stored[first].any(1).tolist() == [False, True] * 8
    checkpoint = load_checkpoint(tmp_path / "c")
    assert (checkpoint.family, checkpoint.config["pruned_heads"]) == (family, {"0": [1, 2, 3], "1": [2, 3]})
    assert checkpoint.tokenizer_json == tokenizer_json
    again = pack(checkpoint)
    assert again.structure.layers == packed.structure.layers
    assert logit_difference(checkpoint, again) < FP32_TOLERANCE
    if dtype == torch.float32:
        assert logit_difference(original, again) < FP32_TOLERANCE


@FAMILY
def test_the_packed_format_is_read_back_to_the_bit(family: Family, tmp_path: Path) -> None:
    packed = pack(pruned_checkpoint(tiny_checkpoint(family, vocab_size=400)))
    write_packed(packed, tmp_path / "c", tokenizer_json=tokenizer_of(family, 400))
    again = pack(load_checkpoint(tmp_path / "c"))
    assert again.structure == packed.structure
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in packed.state_dict().items())


@FAMILY
def test_a_student_without_heads_or_units_computes_what_the_packed_module_does(family: Family) -> None:
    checkpoint = tiny_checkpoint(family)
    structure = replace(
        checkpoint.blank,
        layers=(LayerStructure(heads=(1, 3), ffn_units=(), ffn_width=0), LayerStructure((), (0, 2), 2)),
    )
    tensors = random_tensors(structure, seed=1)
    packed = module_from_tensors(structure, checkpoint.config, tensors)
    student = student_from_checkpoint(
        replace(
            checkpoint,
            tensors=tensors,
            structure=structure,
            heads=tuple(layer.heads for layer in structure.layers),
        )
    ).eval()
    ids = torch.arange(2, 14).view(2, 6)
    inputs = ids, torch.ones_like(ids), torch.zeros_like(ids)
    with torch.no_grad():
        for ours, theirs in zip(student(*inputs), packed(*inputs), strict=True):
            torch.testing.assert_close(ours, theirs, atol=FP32_TOLERANCE, rtol=0)
    assert packed_student(student).structure.heads_left == structure.heads_left
