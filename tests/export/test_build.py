"""The pipeline: what a bundle holds, and that every gate closes on a planted fault and leaves nothing behind."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from densepack_export import build as build_module
from densepack_export.build import BuildOptions, build_bundle
from densepack_export.graphs.onnx_export import export_onnx
from densepack_export.proofs.verify import climb_from_checkpoint, part_of
from densepack_models.families.bert import BERT
from densepack_models.formats.checkpoint import Checkpoint, load_checkpoint
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.torch_session import TorchSession
from densepack_runtime.backends import BACKENDS, Choice, Runnable, choose_backend, open_choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, ParityError
from densepack_runtime.host.story import Story
from densepack_runtime.parity.climb import ParityRun, Rung, climb
from densepack_runtime.parity.ladder import bundle_run, climb_from_recording
from densepack_runtime.parity.report import RungReport
from densepack_runtime.question_answering.squad import SquadDataset, read_squad, sample_squad_path
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, ComputePrecision, Logits, Precision, Session, SessionBase
from densepack_runtime.structure import Cost
from tests.conftest import BUNDLE_QUESTIONS
from tests.models.tiny_checkpoints import written_checkpoint

QUESTIONS = 60


@pytest.fixture(scope="module")
def sample() -> SquadDataset:
    """Sixty sample questions with short contexts, several to a batch, so that there is real padding."""
    questions = read_squad(sample_squad_path()).questions
    short = [question for question in questions if len(question.context) < 1200]
    return SquadDataset("1.1", tuple(short[:QUESTIONS]), "00" * 32)


@pytest.fixture(scope="module")
def checkpoint(default_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(default_checkpoint)


@pytest.fixture(scope="module")
def packed(checkpoint: Checkpoint) -> PackedBertForQuestionAnswering:
    return pack(checkpoint)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three small layers: what a gate does to a build is no question of size, exporting it is."""
    return written_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", BERT, num_layers=3)


@pytest.fixture(scope="module")
def options(sample: SquadDataset) -> BuildOptions:
    """Eight questions, cut to what a tokenizer that spells in letters gets into a window."""
    questions = [
        replace(each, question=each.question[:16], context=each.context[:40], answers=(each.context[:4],))
        for each in sample.questions[:8]
    ]
    dataset = replace(sample, questions=tuple(replace(each, answer_starts=(0,)) for each in questions))
    return BuildOptions(squad=dataset, max_length=64, doc_stride=8, engine=False)


def test_bundle_holds_what_it_should(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    manifest = bundle.manifest
    names = {"model.onnx", "model.fp16.onnx", "int8_ranges.npz", "tokenizer.json"}
    names |= {"reference.npz", "parity.json", "report.html"}
    assert set(manifest.files) == names
    assert manifest.parity.checked
    assert manifest.parity.passed
    assert manifest.parity.questions == BUNDLE_QUESTIONS
    assert manifest.model.structure.parameters == 14_696_522
    assert manifest.model.name == "default"
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.fp16_range is not None
    assert manifest.fp16_range.worst_magnitude < manifest.fp16_range.limit
    assert str(default_bundle) not in (default_bundle / "bundle.json").read_text(), "no path of this machine"
    parity = json.loads((default_bundle / "parity.json").read_text())
    assert parity["passed"]
    assert parity["squad_sha256"] == manifest.parity.squad_sha256


def test_manifest_cost_is_that_of_the_structure(default_bundle: Path, packed: PackedBertForQuestionAnswering) -> None:
    model = Bundle.open(default_bundle).manifest.model
    assert model.structure == packed.structure
    told = json.loads((default_bundle / "bundle.json").read_text())["model"]
    for prefix, structure in (("", packed.structure), ("dense_", packed.structure.dense())):
        cost = Cost(told[f"{prefix}flops_per_token"], told[f"{prefix}flops_per_token_pair"])
        assert cost.flops(384) == structure.cost.flops(384)


# --- planted faults --------------------------------------------------------------------------------------------------


class Faulty(torch.nn.Module):
    """A module whose inputs or outputs are tampered with."""

    def __init__(
        self,
        module: PackedBertForQuestionAnswering,
        *,
        ignore_mask: bool = False,
        zero_types: bool = False,
        swap: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.ignore_mask, self.zero_types, self.swap = module, ignore_mask, zero_types, swap

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.ones_like(attention_mask) if self.ignore_mask else attention_mask
        types = torch.zeros_like(token_type_ids) if self.zero_types else token_type_ids
        start, end = self.module(input_ids, mask, types)
        return (end, start) if self.swap else (start, end)


def one_percent(packed: PackedBertForQuestionAnswering) -> torch.nn.Module:
    """One layer's output matrix times 1.01."""
    changed = pack_copy(packed)
    with torch.no_grad():
        dict(changed.named_parameters())["layer.2.ffn.output.weight"].mul_(1.01)
    return changed


def pack_copy(packed: PackedBertForQuestionAnswering) -> PackedBertForQuestionAnswering:
    copy = PackedBertForQuestionAnswering(packed.structure)
    copy.load_state_dict(packed.state_dict())
    return copy


def judged(
    packed: PackedBertForQuestionAnswering, faulty: torch.nn.Module, run: ParityRun, precision: Precision
) -> RungReport:
    with ExitStack() as opened:
        reference, rung = (opened.enter_context(TorchSession(module)) for module in (packed, faulty))
        return climb(run, [Rung("reference", reference), Rung("faulty", rung, precision)]).rungs[1]


@pytest.fixture(scope="module")
def run(sample: SquadDataset, default_tokenizer_json: str) -> ParityRun:
    run = ParityRun.of(Windower(default_tokenizer_json), sample, "sample")
    assert any((batch.attention_mask == 0).any() for batch in run.batches()), "without padding the mask fault is none"
    return run


def test_no_fault_passes(packed: PackedBertForQuestionAnswering, run: ParityRun) -> None:
    assert judged(packed, Faulty(packed), run, "fp32").status == "passed"


def test_one_percent_in_one_matrix_closes_the_fp32_gate(packed: PackedBertForQuestionAnswering, run: ParityRun) -> None:
    rung = judged(packed, one_percent(packed), run, "fp32")
    assert rung.status == "failed"
    assert "largest |Δlogit|" in rung.failures[0]


@pytest.mark.parametrize("fault", ["swap", "ignore_mask", "zero_types"])
def test_gross_faults_close_the_fp16_gate(packed: PackedBertForQuestionAnswering, run: ParityRun, fault: str) -> None:
    rung = judged(packed, Faulty(packed, **{fault: True}), run, "fp16")
    assert rung.status == "failed", f"{fault}: {rung.span_agreement} % agree, F1 drop {rung.f1_drop}"


def test_a_closed_parity_gate_leaves_no_bundle(
    tiny: Path, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that is exported differs by a percent in one matrix from what the checkpoint says."""

    def wrong_export(packed: PackedBertForQuestionAnswering, path: Path, *, precision: Precision) -> object:
        changed = one_percent(packed)
        assert isinstance(changed, PackedBertForQuestionAnswering)
        return export_onnx(changed, path, precision=precision)

    monkeypatch.setattr(build_module, "export_onnx", wrong_export)
    with pytest.raises(ParityError, match=r"no bundle was written: ONNX FP32: largest \|Δlogit\|"):
        build_bundle(tiny, tmp_path / "out" / "bundle", options, Story.silent())
    assert list((tmp_path / "out").iterdir()) == []


class BacktoFront(SessionBase):
    """OpenVINO that gives the logits of every row in reverse: another answer to nearly every question."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, batch: Batch) -> Logits:
        logits = self.session.run(batch)
        return Logits(logits.end[:, ::-1], logits.start[:, ::-1])

    def close(self) -> None:
        self.session.close()


def plant_wrong_openvino(monkeypatch: pytest.MonkeyPatch, wrong: ComputePrecision) -> None:
    """A processor that multiplies in INT8, where one precision answers wrongly."""
    openvino = BACKENDS["openvino"]

    def open_session(model: Runnable, options: SessionOptions) -> Session:
        session = openvino.open(replace(model, precision="fp32"), options)
        return BacktoFront(session) if model.precision == wrong else session

    planted = replace(openvino, open=open_session, here=lambda _: ("fp32", "int8"))
    monkeypatch.setitem(BACKENDS, "openvino", planted)


def test_a_failed_int8_rung_closes_only_int8(
    tiny: Path, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_wrong_openvino(monkeypatch, "int8")
    result = build_bundle(tiny, tmp_path / "bundle", options, Story.silent())
    [closed] = result.bundle.manifest.closed
    assert (closed.backend, closed.precision) == ("openvino", "int8")
    assert "same best span" in closed.reason
    assert result.parity is not None
    assert result.parity.passed
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.parity.summary.endswith("on 8 questions; closed: OpenVINO INT8")
    told = r"does not run in int8 on openvino: when it was built, same best span for .* % of 8 questions"
    with pytest.raises(BackendError, match=told):
        choose_backend(bundle, "openvino", "int8")
    with pytest.raises(BackendError, match=told):
        open_choice(bundle, Choice("openvino", "int8", "a benchmark asks"))
    assert choose_backend(bundle, "openvino").precision == "fp32"
    report = climb_from_recording(bundle, bundle_run(bundle, options.squad, "sample"))
    assert report.passed
    [rung] = [rung for rung in report.rungs if rung.precision == "int8"]
    assert (rung.status, rung.note) == ("not run", f"closed by the build: {closed.reason}")
    assert "OpenVINO INT8 closed" in (bundle.folder / "report.html").read_text(encoding="utf-8")


def test_a_failed_fp32_rung_of_openvino_leaves_no_bundle(
    tiny: Path, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_wrong_openvino(monkeypatch, "fp32")
    with pytest.raises(ParityError, match="no bundle was written: OpenVINO FP32: "):
        build_bundle(tiny, tmp_path / "out" / "bundle", options, Story.silent())
    assert list((tmp_path / "out").iterdir()) == []


def scaled_value(checkpoint: Checkpoint) -> Checkpoint:
    """Value projection of layer 2 times 2^13, its output projection times 2^-13: the same function in FP32."""
    tensors = dict(checkpoint.tensors)
    for part, factor in (("value.weight", 2.0**13), ("value.bias", 2.0**13), ("output.weight", 2.0**-13)):
        name = f"layer.2.attention.{part}"
        tensors[name] = tensors[name].float() * factor
    return replace(checkpoint, tensors=tensors)


def test_a_value_that_overflows_half_closes_the_range_gate(
    tiny: Path, options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "load_checkpoint", lambda *_, **__: scaled_value(load_checkpoint(tiny)))
    with pytest.raises(ParityError, match="layer.2"):
        build_bundle("scaled", tmp_path / "out" / "bundle", options, Story.silent())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_scaled_value_is_the_same_function_in_float32(
    checkpoint: Checkpoint, packed: PackedBertForQuestionAnswering, run: ParityRun
) -> None:
    part = part_of(run, 10)
    assert judged(packed, pack(scaled_value(checkpoint)), part, "fp32").status == "passed"


# --- the ladder ------------------------------------------------------------------------------------------------------


def test_a_part_of_a_run_has_whole_questions(run: ParityRun) -> None:
    part = part_of(run, 10)
    assert 10 <= len(part.windows) < len(run.windows)
    assert {window.example for window in part.windows} == set(range(len(part.dataset.questions)))

    def windows_of(where: ParityRun, identity: str) -> int:
        return sum(where.dataset.questions[window.example].id == identity for window in where.windows)

    for question in part.dataset.questions:
        assert windows_of(part, question.id) == windows_of(run, question.id)


def test_the_ladder_begins_with_transformers(
    default_bundle: Path, checkpoint: Checkpoint, sample: SquadDataset
) -> None:
    bundle = Bundle.open(default_bundle)
    run = bundle_run(bundle, replace(sample, questions=sample.questions[:6]), "sample")
    seen: list[tuple[int, int]] = []

    def watch(batch: Batch, _: object) -> None:
        seen.append(batch.shape)

    report = climb_from_checkpoint(bundle, run, checkpoint, on_reference=watch)
    assert report.rungs[0].name == "transformers"
    assert report.passed
    assert sum(rows for rows, _ in seen) == len(run.windows)
