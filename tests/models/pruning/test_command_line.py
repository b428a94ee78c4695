"""prune, fill and finetune on the command line: what they write, and what they refuse before any work is lost."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.pruning.density import Steering
from densepack_models.pruning.evaluation import Evaluator
from densepack_models.pruning.trainer import StudentTrainer, last_checkpoint
from densepack_models.pruning.training_log import COLUMNS
from tests.command_line import CommandLine
from tests.models.formats.test_new_head import save
from tests.models.pruning.conftest import PruneCommand, TinyFiles
from tests.models.pruning.tiny_task import squad_document, tiny_start, write_squad, write_start

BLOCKS = {"prune": ("--attention-block", "4x4"), "fill": (), "finetune": ()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "training_log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_dense_to_filled(
    tiny_prune: PruneCommand, tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path
) -> None:
    """The result is in the published format, packs exactly, and says how it was made."""
    pruned, filled = tmp_path / "pruned", tmp_path / "filled"
    done = tiny_prune(
        pruned,
        "--target-density",
        0.5,
        "--score-learning-rate",
        0.2,
        "--eval-squad",
        tiny_files.data,
        "--eval-every",
        10,
    )
    assert done.code == 0, done.err
    assert done.next_step == f"densepack build {pruned} bundle"
    assert "step 10 of 30: loss" in done.err
    assert "F1" in done.out
    log = rows(pruned)
    assert tuple(log[0]) == ("stage", *COLUMNS)
    assert [int(row["step"]) for row in log] == [5, 10, 15, 20, 25, 30]
    assert [row["f1"] != "" for row in log] == [False, True, False, True, False, True]
    assert float(log[-1]["density"]) <= 0.5
    told = json.loads(densepack("inspect", pruned, "--json").out)
    assert told["linear_density_percent"] == pytest.approx(100 * float(log[-1]["density"]))
    record = json.loads((pruned / "training.json").read_text(encoding="utf-8"))
    assert record["command"] == "prune"
    assert record["pruning"]["target_density"] == 0.5
    assert record["command_line"] == (
        "densepack prune start pruned --teacher teacher --data train.json --attention-block 4x4 --target-density 0.5 "
        "--score-learning-rate 0.2 --max-steps 30 --token-budget 256 --max-length 32 --doc-stride 8 "
        "--learning-rate 0.001 --device cpu --eval-squad train.json --eval-every 10"
    )
    assert record["result"]["packing_difference"] < 1e-4
    arguments = tiny_files.arguments("fill", filled)
    arguments[1] = str(pruned)
    done = densepack(*arguments, "--half", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert 100 * result["linear_density"] == pytest.approx(told["linear_density_percent"])
    record = json.loads((filled / "training.json").read_text(encoding="utf-8"))
    assert (record["command"], record["before"]["command"]) == ("fill", "prune")
    assert [row["stage"] for row in rows(filled)] == ["prune"] * 6 + ["fill"] * 6
    checkpoint = load_checkpoint(filled)
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float16}
    config = json.loads((filled / "config.json").read_text(encoding="utf-8"))
    assert sum(len(heads) for heads in config["pruned_heads"].values()) == 8 - result["heads"]


@pytest.mark.parametrize(
    ("steps", "target", "options"),
    [
        (5, 0.3, ()),
        (1, 0.29, ("--init", "fisher")),
        (1, 0.29, ("--init", "second-order")),
        (5, 0.3, ("--attention-block", "head", "--method", "topk")),
        (5, 0.45, ("--preset", "magnitude")),
        (3, 0.3, ("--method", "l0", "--last-threshold", 0)),
        (5, 0.5, ("--method", "threshold", "--half")),
    ],
)
def test_a_schedule_without_a_hold_keeps_the_target(
    tiny_prune: PruneCommand,
    densepack: CommandLine,
    tmp_path: Path,
    steps: int,
    target: float,
    options: tuple[Any, ...],
) -> None:
    done = tiny_prune(tmp_path / "out", "--max-steps", steps, "--target-density", target, *options)
    assert done.code == 0, done.err
    told = json.loads(densepack("inspect", tmp_path / "out", "--json").out)
    assert 0 < told["linear_density_percent"] <= 100 * target
    assert float(rows(tmp_path / "out")[-1]["density"]) * 100 == pytest.approx(told["linear_density_percent"])


def test_a_finished_state_is_held_to_the_target(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    """Such states are there from versions that left the masks as they were."""
    arguments = (tmp_path / "out", "--max-steps", 5, "--target-density", 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steering, "update", lambda *_: 0.0)
        assert tiny_prune(*arguments).code == 0
    done = tiny_prune(*arguments, "--resume", "--overwrite", "--json")
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["linear_density"] <= 0.3


def test_finetune_needs_no_teacher(tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path) -> None:
    arguments = list(tiny_files.arguments("finetune", tmp_path / "out"))
    at = arguments.index("--teacher")
    del arguments[at : at + 2]
    done = densepack(*arguments, "--accumulation", 2)
    assert done.code == 0, done.err
    log = rows(tmp_path / "out")
    assert {row["kd"] for row in log} == {""}
    assert float(log[-1]["ce"]) < float(log[0]["ce"])


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_pretrained_encoder_is_fine_tuned_with_a_new_head(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path, kind: type[Any]
) -> None:
    save(kind, tmp_path / "encoder")
    files = replace(tiny_files, start=tmp_path / "encoder")

    def tune(name: str, *options: object) -> dict[str, torch.Tensor]:
        done = densepack(*files.arguments("finetune", tmp_path / name), "--max-steps", 4, *options)
        assert done.code == 0, done.err
        assert f"{kind.__name__} has no question-answering head: it is new, drawn with seed" in done.err
        return load_checkpoint(tmp_path / name).tensors

    first, again, other = tune("first"), tune("again"), tune("other", "--seed", 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["qa_outputs.weight"], other["qa_outputs.weight"])
    without = [part for part in files.arguments("finetune", tmp_path / "alone") if part not in ("--teacher",)]
    without.remove(str(files.teacher))
    assert densepack(*without, "--max-steps", 4).code == 0


def test_only_the_start_of_finetune_may_be_without_a_head(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path
) -> None:
    save(BertModel, tmp_path / "encoder")
    headless = replace(tiny_files, start=tmp_path / "encoder")
    for files, command in (
        (headless, "prune"),
        (headless, "fill"),
        (replace(tiny_files, teacher=tmp_path / "encoder"), "finetune"),
    ):
        done = densepack(*files.arguments(command, tmp_path / "out"))
        assert done.code == 1
        assert "has no question-answering head: densepack finetune trains one" in done.error_lines[0]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"answers": []}, "1 of 3 questions have no gold answer, first 'q1', and the file is not SQuAD 2"),
        ({"question": " "}, "1 of 3 questions of the evaluation data cannot be answered, first 'q1': the question is"),
        ({"id": "q0"}, "1 question ids are used twice"),
    ],
)
@pytest.mark.parametrize("command", ["prune", "fill", "finetune"])
def test_what_could_not_be_scored_is_refused_before_the_training(
    tiny_files: TinyFiles, densepack: CommandLine, tmp_path: Path, command: str, question: Any, message: str
) -> None:
    document = squad_document(3)
    document["data"][0]["paragraphs"][1]["qas"][0] |= question
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    done = densepack(*tiny_files.arguments(command, tmp_path / "out"), *BLOCKS[command], "--eval-squad", path)
    assert done.code == 1
    assert message in done.error_lines[0]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.state" / command / "log.csv").exists()


def test_an_evaluation_that_fails_costs_no_training(
    tiny_prune: PruneCommand, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "out", tmp_path / "out.state" / "prune"
    saved: list[str] = []

    def fail(*_: object) -> None:
        saved.append(last_checkpoint(state).name)  # type: ignore[union-attr]
        raise RuntimeError("out of memory")

    options = ("--eval-squad", tiny_files.data, "--eval-every", 7, "--max-steps", 16)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "score", fail)
        done = tiny_prune(out, *options, "--json")
    assert saved == ["checkpoint-7", "checkpoint-14", "checkpoint-16"]
    assert done.code == 1
    assert f"{out} is whole, but it could not be scored: RuntimeError: out of memory" in " ".join(done.err.split())
    assert json.loads(done.out)["evaluation_failure"] == "RuntimeError: out of memory"
    assert load_checkpoint(out)
    assert [int(row["step"]) for row in rows(out)] == [5, 7, 10, 14, 15, 16]
    again = tiny_prune(out, *options, "--resume", "--overwrite", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["score"]["count"] == 64


def test_bf16(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    done = tiny_prune(tmp_path / "out", "--bf16", "--init", "fisher", "--target-density", 0.5)
    assert done.code == 0, done.err
    assert "ranked heads and units on" in done.err
    assert json.loads((tmp_path / "out" / "training.json").read_text())["training"]["precision"] == "bf16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp16"), "training in fp16 needs a GPU"),
        (("--device", "cuda"), "PyTorch sees no CUDA GPU: use --device cpu"),
        (("--warmup-steps", 3), "a run of 30 steps has no room to prune"),
        (("--target-density", 1.5), "a density of 150 % cannot be reached"),
        (("--target-density", 0.05), "a density of 5 % is out of reach: the floor on survivors"),
        (("--method", "magic"), "method is 'magic', one of sigmoid, topk, threshold, magnitude, l0 is needed"),
        (("--attention-block", "5x5"), "blocks of 5x5 do not fit: layer 0 query is [32, 32]"),
        (("--max-length", 512), "windows of 512 tokens are longer than"),
        (("--token-budget", 16), "cannot hold the longest window"),
        (("--dropout", 2), "dropout is 2, 0 to 1 is needed"),
        (("--data", "nowhere.json"), "nowhere.json"),
        (("--teacher", "nowhere"), "nowhere"),
    ],
)
def test_what_is_refused_before_any_work(
    tiny_prune: PruneCommand, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    if options[:2] == ("--device", "cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = tiny_prune(tmp_path / "out", *options)
    assert done.code == 1
    [line] = done.error_lines
    assert message in line
    assert not (tmp_path / "out").exists()
    assert last_checkpoint(tmp_path / "out.state" / "prune") is None


def test_a_teacher_with_another_vocabulary(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    other = write_start(tmp_path / "other", tiny_start(extra=("elephant",)))
    [line] = tiny_prune(tmp_path / "out", "--teacher", other).error_lines
    assert "has another vocabulary" in line
    assert "1 have another id or none" in line


def test_an_answer_that_is_not_there(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    data = write_squad(tmp_path / "data.json")
    document = json.loads(data.read_text(encoding="utf-8"))
    document["data"][0]["paragraphs"][5]["qas"][0]["answers"][0]["text"] = "aardvark"
    data.write_text(json.dumps(document), encoding="utf-8")
    [line] = tiny_prune(tmp_path / "refused", "--data", data, "--bad-answers", "refuse").error_lines
    assert "1 of 64 questions cannot be trained on; 'q5': its answer 'aardvark' is not at character" in line
    done = tiny_prune(tmp_path / "dropped", "--data", data)
    assert done.code == 0, done.err
    assert "dropped 1 of 64 questions" in done.err
    [dropped] = json.loads((tmp_path / "dropped.state" / "dropped_questions.json").read_text(encoding="utf-8"))
    assert dropped["id"] == "q5"


def test_a_loss_that_is_no_number(tiny_prune: PruneCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with a clear error, and the last good checkpoint is kept."""
    before = StudentTrainer.before_step

    def poisoned(trainer: StudentTrainer, step: int) -> None:
        before(trainer, step)
        if step == 12:
            with torch.no_grad():
                trainer.student.linear("qa_outputs").weight.fill_(float("nan"))

    monkeypatch.setattr(StudentTrainer, "before_step", poisoned)
    done = tiny_prune(tmp_path / "out")
    assert done.code == 1
    [line] = done.error_lines
    state = tmp_path / "out.state" / "prune"
    assert f"the loss is nan in step 13: the last good checkpoint is {state / 'checkpoint-10'}" in line
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()


def test_a_result_that_exists_is_not_lost(tiny_prune: PruneCommand, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("mine")
    [line] = tiny_prune(out).error_lines
    assert "exists already: choose another name, remove it, or pass --overwrite" in line
    assert (out / "precious").read_text() == "mine"


def test_without_the_extra(tiny_prune: PruneCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "accelerate", None)
    [line] = tiny_prune(tmp_path / "out").error_lines
    assert "accelerate" in line
    assert "densepack[prune]" in line
