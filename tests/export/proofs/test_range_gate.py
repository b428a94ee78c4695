"""The FP16 range gate: it sees every float16 tensor, measures what PyTorch measures, and closes when it must."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from densepack_export.graphs.onnx_export import random_batch
from densepack_export.proofs.range_gate import (
    MOVES,
    measure_fp16_ranges,
    subnormal_share,
)
from densepack_models.packed_bert import PackedBertForQuestionAnswering, SelfAttention
from densepack_runtime.bundle import MANIFEST
from densepack_runtime.errors import BundleError, ExportError, InputError, ParityError
from densepack_runtime.host.records import data_from_record
from densepack_runtime.sessions.fp16_range import LIMIT, RangeReport, part_of
from densepack_runtime.sessions.session import Batch
from densepack_runtime.structure import Structure
from tests.export.conftest import VARIANTS, ExportedBy, random_module

# The gate computes in ONNX Runtime, the reference in PyTorch: two orders of float32 summation.
RELATIVE_TOLERANCE = 1e-5
SCALE = 2.0**12


def batches_for(structure: Structure) -> list[Batch]:
    return [random_batch(structure, 3, 17, seed=1), random_batch(structure, 2, 40, seed=2)]


def logits(module: nn.Module, batch: Batch) -> Tensor:
    with torch.inference_mode():
        start, end = module(*map(torch.from_numpy, batch.arrays().values()))
    return torch.stack([start, end])


def largest_by_hooks(module: PackedBertForQuestionAnswering, batches: list[Batch]) -> dict[str, float]:
    """Magnitudes of linear outputs, attention scores, contexts and activations, seen from PyTorch."""
    found: dict[str, float] = {}
    outputs: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> None:
        found[name] = max(found.get(name, 0.0), float(tensor.abs().max()))

    def hook(name: str, kind: str) -> None:
        def seen(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output
            note(f"{name}/{kind}", output)
            if isinstance(part, nn.Linear):
                note(f"{name}/MatMul", output - part.bias)
            if name.endswith("attention/output"):
                note(f"{name.removesuffix('/output')}/context/MatMul", inputs[0])

        module.get_submodule(name[1:].replace("/", ".")).register_forward_hook(seen)

    for name, part in module.named_modules():
        path = "/" + name.replace("layer.", "layer#").replace(".", "/").replace("#", ".")
        if isinstance(part, nn.Linear):
            hook(path, "Add")
        elif isinstance(part, nn.GELU):
            hook(path, "Gelu")
    for batch in batches:
        logits(module, batch)
        for index, layer in enumerate(module.layer):
            attention = layer.get_submodule("attention")
            if isinstance(attention, SelfAttention):
                path = f"/layer.{index}/attention"
                query, key = (
                    outputs[f"{path}/{name}"].reshape(*batch.shape, attention.num_heads, attention.head_size)
                    for name in ("query", "key")
                )
                note(f"{path}/scores/MatMul", torch.einsum("bihd,bjhd->bhij", query, key))
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_every_float16_tensor_of_the_file_is_covered(exported: ExportedBy, name: str) -> None:
    made = exported(name, "fp16")
    report = measure_fp16_ranges(made.module, batches_for(made.module.structure), onnx_path=made.path)
    graph = ir.load(made.path).graph
    covered = set(report.magnitudes)
    initialisers = [value for value in graph.initializers.values() if value.dtype == ir.DataType.FLOAT16]
    assert initialisers
    for value in initialisers:
        assert str(value.name).removesuffix(".transposed") in covered, value.name
    computed = [value for node in graph for value in node.outputs if value.dtype == ir.DataType.FLOAT16]
    assert len(computed) > 50
    for value in computed:
        source = value
        while (node := source.producer()) is not None and node.op_type in MOVES:
            assert node.inputs[0] is not None
            source = node.inputs[0]
        assert source.name in covered or source.is_initializer(), value.name


def test_magnitudes_are_those_of_pytorch(exported: ExportedBy) -> None:
    made = exported("gelu", "fp16")
    batches = batches_for(made.module.structure)
    report = measure_fp16_ranges(made.module, iter(batches), onnx_path=made.path)
    expected = largest_by_hooks(copy.deepcopy(made.module), batches)
    assert len(expected) == 17 + 13 + 2, "all products, the projections' sums, both activations"
    for name, value in expected.items():
        assert report.magnitudes[name] == pytest.approx(value, rel=RELATIVE_TOLERANCE), name
    for name, parameter in made.module.named_parameters():
        if "norm" not in name:
            assert report.magnitudes[name] == float(parameter.detach().abs().max()), name
    assert report.windows == 5
    assert report.worst_magnitude == max(report.magnitudes.values())
    report.check()


def test_graph_is_traced_when_there_is_no_file(exported: ExportedBy) -> None:
    made = exported("gelu", "fp16")
    batches = batches_for(made.module.structure)
    from_file = measure_fp16_ranges(made.module, batches, onnx_path=made.path)
    assert measure_fp16_ranges(made.module, batches) == from_file


def planted(module: PackedBertForQuestionAnswering, layer: int) -> PackedBertForQuestionAnswering:
    """One value projection times 2^12, its output projection times 2^-12: the same function, exactly, in float32."""
    scaled = copy.deepcopy(module)
    attention = scaled.layer[layer].get_submodule("attention")
    assert isinstance(attention, SelfAttention)
    with torch.no_grad():
        attention.value.weight.mul_(SCALE)
        attention.value.bias.mul_(SCALE)
        attention.output.weight.mul_(1 / SCALE)
    return scaled


@pytest.mark.parametrize("layer", [0, 2])
def test_planted_scale_closes_the_gate(exported: ExportedBy, layer: int) -> None:
    """Float32 cannot see it. The values themselves stay under the limit here: the other end of float16 tells."""
    made = exported("gelu", "fp16")
    batches = batches_for(made.module.structure)
    scaled = planted(made.module, layer)
    assert all(torch.equal(logits(scaled, batch), logits(made.module, batch)) for batch in batches)
    report = measure_fp16_ranges(scaled, batches, onnx_path=made.path)
    assert report.subnormal[f"layer.{layer}.attention.output.weight"] > 0.9
    with pytest.raises(ParityError, match=rf"lose bits in layer\.{layer}: .*layer\.{layer}\.attention\.output\.weight"):
        report.check()


def test_planted_scale_on_large_values_overflows(exported: ExportedBy) -> None:
    made = exported("gelu", "fp16")
    batches = batches_for(made.module.structure)
    large = copy.deepcopy(made.module)
    attention = large.layer[2].get_submodule("attention")
    assert isinstance(attention, SelfAttention)
    with torch.no_grad():
        attention.value.weight.mul_(16)
    measure_fp16_ranges(large, batches, onnx_path=made.path).check()
    scaled = planted(large, 2)
    assert all(torch.equal(logits(scaled, batch), logits(large, batch)) for batch in batches)
    report = measure_fp16_ranges(scaled, batches, onnx_path=made.path)
    with pytest.raises(
        ParityError,
        match=r"overflow in layer\.2: over 5 windows .*/layer\.2/attention/value/MatMul \d+,\d{3}.* limit is 30,000",
    ):
        report.check()
    assert next(iter(report.over_limit)) == "/layer.2/attention/value/MatMul", "the first is where it begins"


def test_weight_beyond_float16(exported: ExportedBy) -> None:
    """Rounded to float16 it would be inf already; the gate names the true value."""
    made = exported("gelu", "fp16")
    module = copy.deepcopy(made.module)
    with torch.no_grad():
        module.get_parameter("layer.1.attention.bias")[3] = 70_000.0
    report = measure_fp16_ranges(module, batches_for(module.structure), onnx_path=made.path)
    assert report.worst_name == "layer.1.attention.bias"
    with pytest.raises(ParityError, match=r"overflow in layer\.1: .*layer\.1\.attention\.bias 70,000"):
        report.check()


def test_padded_positions_count(tiny_structure: Structure) -> None:
    """A huge embedding behind the mask: real logits do not see it, a GPU would compute with it."""
    structure = replace(tiny_structure, layer_norm_type="no_norm", layers=tiny_structure.layers[:1])
    module = random_module(structure)
    with torch.no_grad():
        module.embeddings.word.weight[7] = 50_000.0
    batch = random_batch(structure, 2, 9)
    quiet = measure_fp16_ranges(module, [batch]).magnitudes
    batch.input_ids[1, -1] = 7
    assert batch.attention_mask[1, -1] == 0
    loud = measure_fp16_ranges(module, [batch]).magnitudes
    name = "/layer.0/attention/value/MatMul"
    assert quiet[name] < LIMIT < loud[name]


def test_report_round_trip() -> None:
    report = RangeReport({"/layer.1/ffn/output/Add": 3.5, "qa_outputs.bias": 0.25}, {"qa_outputs.weight": 0.0}, 12)
    told = json.loads(json.dumps(data_from_record(report)))
    assert MANIFEST.record(told, RangeReport) == report
    assert told["worst"] == {"name": "/layer.1/ffn/output/Add", "magnitude": 3.5}
    with pytest.raises(BundleError, match="the FP16 range gate has measured no tensor"):
        MANIFEST.record({**told, "magnitudes": {}}, RangeReport)


def test_check_names_a_few_and_counts_the_rest() -> None:
    report = RangeReport({f"/layer.{index}/ffn/output/Add": 4e4 for index in range(8)}, {}, windows=3)
    with pytest.raises(ParityError, match=r"layer\.0: .*/layer\.4/ffn/output/Add 40,000 and 3 more; the limit"):
        report.check()
    undefined = RangeReport({"/qa_outputs/Add": float("nan"), "/embeddings/Cast": 1.0}, {}, windows=3)
    assert undefined.worst_name == "/qa_outputs/Add"
    with pytest.raises(ParityError, match="overflow in qa_outputs"):
        undefined.check()


def test_parts() -> None:
    assert part_of("/layer.11/attention/value/MatMul") == "layer.11"
    assert part_of("layer.3.ffn.output.bias") == "layer.3"
    assert part_of("/embeddings/Cast_3") == "embeddings"
    assert part_of("qa_outputs.weight") == "qa_outputs"


def test_subnormal_share_leaves_zeros_out() -> None:
    weight = np.asarray([[0.0, 0.0, 1e-6, 6.2e-5], [1.0, -1e-5, 0.5, 0.0]], dtype=np.float32)
    assert subnormal_share(weight) == 2 / 5
    assert subnormal_share(np.zeros((2, 2), dtype=np.float32)) == 0


def test_wrong_use_is_told(exported: ExportedBy, tiny_structure: Structure) -> None:
    made = exported("gelu", "fp16")
    with pytest.raises(InputError, match="got no windows"):
        measure_fp16_ranges(made.module, [], onnx_path=made.path)
    with pytest.raises(ExportError, match="has no float16 tensor"):
        measure_fp16_ranges(made.module, [], onnx_path=exported("gelu", "fp32").path)
    shorter = random_module(replace(tiny_structure, layers=tiny_structure.layers[:1]))
    with pytest.raises(ExportError, match=r"layer\.1\.attention\.bias.*no parameter of this module"):
        measure_fp16_ranges(shorter, [], onnx_path=made.path)
    wider = random_module(replace(tiny_structure, vocab_size=30523))
    with pytest.raises(ExportError, match=r"embeddings\.word\.weight is \[30522, ?32\] in the graph and \(30523, 32\)"):
        measure_fp16_ranges(wider, [], onnx_path=made.path)


def test_weights_that_are_not_finite(exported: ExportedBy) -> None:
    made = exported("gelu", "fp16")
    module = copy.deepcopy(made.module)
    with torch.no_grad():
        module.qa_outputs.bias[0] = float("inf")
    with pytest.raises(ParityError, match="not finite even in float32"):
        measure_fp16_ranges(module, batches_for(module.structure), onnx_path=made.path)
