"""`densepack shrink` on a tiny model: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from densepack_export.card.facts import training_stages
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.packing import pack
from densepack_models.pruning.batches import TrainingBatches, padded_batch
from densepack_models.pruning.options import ShrinkOptions
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.calibration import calibration_windows
from densepack_models.pruning.second_order.cut import Surgeon
from densepack_models.pruning.second_order.recipe import shrink
from densepack_models.pruning.second_order.statistics import measure
from densepack_models.pruning.student import plain_tensors, student_from_checkpoint
from densepack_models.weights import tensors_from_module
from densepack_runtime.host.story import Story
from tests.command_line import CommandLine, Outcome
from tests.models.pruning.conftest import TinyFiles
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_start

OPTIONS = ShrinkOptions(token_budget=256, max_length=LONGEST, doc_stride=8, device="cpu")
# With 0.001 of the mean variance as damping, a double takes over nearly all that the other one did: this is the share
# that may be missing.
DAMPED = 0.02

TinyShrink = Callable[..., Outcome]


@pytest.fixture
def tiny_shrink(densepack: CommandLine, tiny_files: TinyFiles) -> TinyShrink:
    """`densepack shrink` on the tiny files: the folder to write, and more options."""

    def run(out: Path, *options: object) -> Outcome:
        sizes = ("--max-length", LONGEST, "--doc-stride", 8, "--device", "cpu")
        return densepack("shrink", tiny_files.start, out, "--data", tiny_files.data, *sizes, *options)

    return run


def surgeon_of(start: Checkpoint, folder: Path) -> Surgeon:
    student = student_from_checkpoint(start)
    windows = calibration_windows(start, tiny_data(folder), OPTIONS, Story.silent())
    batches = TrainingBatches(windows, token_budget=256, seed=0)
    statistics = measure(student, (batches[place] for place in range(len(batches))))
    return Surgeon(student.structure, plain_tensors(student), statistics)


def logits_of(checkpoint: Checkpoint, batch: dict[str, Tensor]) -> Tensor:
    """Start and end logits of real tokens."""
    inputs = [batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    with torch.inference_mode():
        return torch.stack(pack(checkpoint)(*inputs)) * batch["attention_mask"]


def test_a_model_is_written_at_the_density(tiny_shrink: TinyShrink, tiny_files: TinyFiles, tmp_path: Path) -> None:
    outcome = tiny_shrink(tmp_path / "out", "--density", 0.5)
    assert outcome.code == 0, outcome.err
    written = load_checkpoint(tmp_path / "out")
    structure = pack(written).structure
    assert 0.4 < structure.linear_density <= 0.5
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    result = record["result"]
    assert record["command"] == "shrink"
    assert record["command_line"].startswith("densepack shrink start out --data train.json")
    assert record["start"]["sha256"] == load_checkpoint(tiny_files.start).sha256
    assert result["linear_density"] == structure.linear_density
    assert result["packing_difference"] < 1e-5
    assert [len(layer["heads"]) for layer in result["plan"]["layers"]] == [len(each.heads) for each in structure.layers]
    assert [tuple(layer["units"]) for layer in result["plan"]["layers"]] == [
        each.ffn_units for each in structure.layers
    ]
    *layers, total = [line.split() for line in outcome.out.splitlines() if line.split()[0] in ("0", "1", "all")]
    assert [[int(count) for count in row[1:3]] for row in layers] == [
        [len(layer.heads), layer.ffn_width] for layer in structure.layers
    ]
    assert float(total[3]) + float(total[4]) == pytest.approx(result["plan"]["predicted_loss"], abs=1e-3)
    assert f"wrote {tmp_path / 'out'}" in outcome.err
    assert outcome.next_step == f"densepack build {tmp_path / 'out'} bundle"


def test_its_card_tells_of_it(tiny_shrink: TinyShrink, densepack: CommandLine, tmp_path: Path) -> None:
    assert tiny_shrink(tmp_path / "out", "--density", 0.5, "--questions", 20).code == 0
    stages = training_stages(tmp_path / "out")
    assert [(stage["command"], stage["steps"], stage["questions"]) for stage in stages] == [("shrink", 0, 20)]
    outcome = densepack("card", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "out" / "README.md").read_text()
    assert "densepack shrink start out --data train.json" in text
    assert "training_log.csv" not in text


def test_a_family_comes_from_one_measurement_and_the_card_of_each_tells_of_all(
    tiny_shrink: TinyShrink, densepack: CommandLine, tmp_path: Path
) -> None:
    outcome = tiny_shrink(tmp_path / "out", "--family", "0.6,0.3", "--json")
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)
    assert [Path(result["out"]).name for result in results] == ["0.60", "0.30"]
    assert densepack("card", tmp_path / "out" / "0.30").code == 0
    card = (tmp_path / "out" / "0.30" / "README.md").read_text(encoding="utf-8")
    for result in results:
        density, loss = 100 * result["linear_density"], result["plan"]["predicted_loss"]
        assert f"| {Path(result['out']).name} | {density:.1f} % | {result['heads']} | {loss:.4f} |  |" in card
    assert tiny_shrink(tmp_path / "alone", "--density", 0.3).code == 0
    alone = (tmp_path / "alone" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "0.30" / "model.safetensors").read_bytes() == alone  # and twice the same bits


def test_questions_without_answers_measure_it_too(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path
) -> None:
    """Lines of nothing but question and context: the loss is on the model's own spans, drawn by the seed."""
    asked = [{"question": each.question, "context": each.context} for each in tiny_data(tmp_path).questions]
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")

    def cut(name: str, seed: int) -> tuple[bytes, str]:
        sizes = ("--max-length", LONGEST, "--doc-stride", 8, "--device", "cpu", "--seed", seed)
        outcome = densepack("shrink", tiny_files.start, tmp_path / name, "--data", data, "--density", 0.5, *sizes)
        assert outcome.code == 0, outcome.err
        assert json.loads((tmp_path / name / "training.json").read_text())["spans"] == "drawn"
        return (tmp_path / name / "model.safetensors").read_bytes(), outcome.err

    first, told = cut("first", 0)
    assert "the data has no answers: the loss is that of spans drawn from what the model itself says" in told
    assert cut("again", 0)[0] == first
    assert cut("other", 1)[0] != first


def test_flops_count_the_attention_products(tiny_shrink: TinyShrink, tmp_path: Path) -> None:
    outcome = tiny_shrink(tmp_path / "out", "--flops", 0.5, "--length", 32)
    assert outcome.code == 0, outcome.err
    structure = pack(load_checkpoint(tmp_path / "out")).structure
    assert 0.4 < structure.cost.flops(32) / structure.dense().cost.flops(32) <= 0.5
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["budget"] == {"flops": 0.5, "length": 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --density, --flops, --speedup, --latency-ms and --family"),
        (("--density", 0.5, "--family", "0.3"), "how small is not clear"),
        (("--density", 0.5, "--flops", 0.5), "how small is not clear"),
        (("--family", "0.5,0.5"), "densities, below 1, and speed-ups, above 1; got '0.5,0.5'"),
        (("--family", "1"), "densities, below 1, and speed-ups, above 1; got '1'"),
        (
            ("--density", 0.01),
            "1 % of the linear weights cannot be reached: the model has 100 % of the linear weights, and the least "
            "that can stay is 5 % of the linear weights; choose one between",
        ),
        (("--density", 1), "100 % of the linear weights cannot be reached"),
        (("--flops", 0.001), "0.1 % of the FLOPs cannot be reached: the model has 100 % of the FLOPs, and the least"),
        (("--speedup", 2), "a speed is that of a backend: say which with --backend"),
        (("--speedup", 2, "--backend", "abacus"), "unknown backend and precision 'abacus'; known: onnxruntime"),
        (("--latency-ms", 2, "--backend", "openvino", "--precision", "fp4"), "'openvino-fp4'; known:"),
        (("--speedup", 2, "--backend", "openvino"), f"lower --length to {LONGEST}"),
        (("--density", 0.5, "--max-length", 64), f"lower --max-length to {LONGEST}"),
    ],
)
def test_refusals_come_before_the_work(
    tiny_shrink: TinyShrink, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    outcome = tiny_shrink(tmp_path / "out", *options)
    assert outcome.code != 0
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays_unless_asked(tiny_shrink: TinyShrink, tmp_path: Path) -> None:
    assert tiny_shrink(tmp_path / "out", "--density", 0.5).code == 0
    assert "pass --overwrite" in tiny_shrink(tmp_path / "out", "--density", 0.3).err
    assert "pass --overwrite" in tiny_shrink(tmp_path / "out", "--density", 0.3, "--resume").err
    again = tiny_shrink(tmp_path / "out", "--density", 0.3, "--overwrite")
    assert "holds a measurement already, up to batch 1: pass --resume" in " ".join(again.err.split())
    assert tiny_shrink(tmp_path / "out", "--density", 0.3, "--overwrite", "--resume").code == 0
    assert pack(load_checkpoint(tmp_path / "out")).structure.linear_density <= 0.3


def test_doubled_units_go_and_nothing_changes(tmp_path: Path) -> None:
    start = tiny_start()
    for index in range(2):
        for name, axis in (("intermediate.weight", 0), ("intermediate.bias", 0)):
            tensor = start.tensors[f"layer.{index}.ffn.{name}"]
            tensor.copy_(tensor.index_select(axis, torch.arange(16) % 8))
    [result] = shrink(start, {tmp_path / "out": Goal("density", 0.9)}, tiny_data(tmp_path), OPTIONS)
    for layer in result.plan.layers:
        assert len(layer.heads) == 4
        assert {unit % 8 for unit in layer.units} == set(range(8))
        assert len(layer.units) == 8
    batch = padded_batch(calibration_windows(start, tiny_data(tmp_path), OPTIONS, Story.silent()), np.arange(32))
    whole, cut = logits_of(start, batch), logits_of(load_checkpoint(tmp_path / "out"), batch)
    for index, layer in enumerate(result.plan.layers):
        gone = sorted({*range(16)} - {*layer.units})
        start.tensors[f"layer.{index}.ffn.output.weight"][:, gone] = 0
    without = logits_of(start, batch)
    assert float((cut - whole).abs().max()) < DAMPED * float((without - whole).abs().max())


def test_the_mean_of_what_goes_is_in_the_bias(tmp_path: Path) -> None:
    start = tiny_start()
    surgeon = surgeon_of(start, tmp_path)
    goal = Goal("density", 0.4)
    prices = goal.prices(surgeon.whole)
    plan = surgeon.plan(prices, goal.limit(prices, surgeon.whole))
    stays, tensors = plan.layers, tensors_from_module(surgeon.cut(plan, start.config))
    for name, known in surgeon._statistics.items():
        _, index, part, _ = name.split(".")
        groups, size = (stays[int(index)].heads, 8) if part == "attention" else (stays[int(index)].units, 1)
        kept = [group * size + place for group in groups for place in range(size)]
        ours = tensors[f"{name}.bias"].double()
        if kept:
            ours = ours + tensors[f"{name}.weight"].double() @ known.mean[kept]
        weight, bias = (start.tensors[f"{name}.{kind}"].double() for kind in ("weight", "bias"))
        torch.testing.assert_close(ours, weight @ known.mean + bias, rtol=1e-5, atol=1e-5)


def test_a_model_that_was_cut_can_be_cut_again(tmp_path: Path) -> None:
    start, data = tiny_start(), tiny_data(tmp_path)
    shrink(start, {tmp_path / "half": Goal("density", 0.5)}, data, OPTIONS)
    again = load_checkpoint(tmp_path / "half")
    [result] = shrink(again, {tmp_path / "third": Goal("density", 0.3)}, data, OPTIONS)
    before, after = pack(again).structure, pack(load_checkpoint(tmp_path / "third")).structure
    assert result.linear_density <= 0.3
    for earlier, later in zip(before.layers, after.layers, strict=True):
        assert {*later.heads} <= {*earlier.heads}
        assert {*later.ffn_units} <= {*earlier.ffn_units}
