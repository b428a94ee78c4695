"""`densepack shrink --recover`: what was cut learns from the model that it was cut from, cut and recovered in turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import pack
from densepack_models.pruning.trainer import StudentTrainer
from tests.command_line import CommandLine, Outcome
from tests.models.pruning.conftest import TinyFiles
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_start, write_start

Recover = Callable[..., Outcome]


@pytest.fixture
def recover(densepack: CommandLine, tiny_files: TinyFiles) -> Recover:
    """`densepack shrink` with four steps of recovery on the tiny files: the folder to write, and more options."""

    def run(out: Path, *options: object, data: Path = tiny_files.data) -> Outcome:
        sizes = ("--max-length", LONGEST, "--doc-stride", 8, "--device", "cpu", "--token-budget", 256)
        return densepack("shrink", tiny_files.start, out, "--data", data, *sizes, "--recover", 4, *options)

    return run


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of all stages, the first one first."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    while record is not None:
        found.insert(0, record)
        record = record["before"]
    return found


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_two_stages_cut_and_recover_in_turn(recover: Recover, tiny_files: TinyFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = recover(out, "--density", 0.4, "--stages", 2, "--half", "--log-every", 2)
    assert done.code == 0, done.err
    stages = records(out)
    assert [stage["command"] for stage in stages] == ["shrink", "finetune"] * 2
    assert [stage["budget"] for stage in stages[::2]] == [{"density": 0.4, "share": 0.5}, {"density": 0.4}]
    half, last = (stage["result"]["linear_density"] for stage in stages[::2])
    assert 0.55 < half <= 0.4**0.5
    assert last <= 0.4
    start = load_checkpoint(tiny_files.start).sha256
    for stage in stages[1::2]:
        assert stage["teacher"]["sha256"] == start
        assert (stage["steps"], stage["training"]["learning_rate"]) == (4, 1.5e-4)
    assert pack(load_checkpoint(out)).structure.linear_density == last
    rows = (out / "training_log.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["finetune", "2"], ["finetune", "4"]] * 2
    assert f"wrote {out}" in done.err


def test_every_member_of_a_family_is_recovered_and_a_stopped_run_goes_on(recover: Recover, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    family = ("--family", "0.6,0.4", "--dropout", 0.1, "--save-every", 1)
    before, steps = StudentTrainer.before_step, []

    def ending(trainer: StudentTrainer, step: int) -> None:
        steps.append(step)
        if len(steps) == 7:  # the third of the second member
            raise SystemExit(9)
        before(trainer, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentTrainer, "before_step", ending)
        assert recover(out, *family).code == 9
    assert [path.name for path in out.iterdir()] == ["0.60"]
    done = recover(out, *family, "--resume", "--json")
    assert done.code == 0, done.err
    assert "going on from step 2 of 4" in done.err
    told = json.loads(done.out)
    assert [Path(member["recovered"]["out"]).name for member in told] == ["0.60", "0.40"]
    assert recover(whole, *family).code == 0
    assert [weights(out / name) for name in ("0.60", "0.40")] == [weights(whole / name) for name in ("0.60", "0.40")]
    assert "holds a measurement already" in recover(out, *family, "--overwrite").error_lines[0]


def test_without_answers_the_teacher_is_all_there_is(recover: Recover, tmp_path: Path) -> None:
    asked = [{"question": each.question, "context": each.context} for each in tiny_data(tmp_path).questions]
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    done = recover(tmp_path / "out", "--density", 0.4, data=data)
    assert done.code == 0, done.err
    assert "the data has no answers: what was cut learns from the teacher alone" in done.err
    assert records(tmp_path / "out")[-1]["training"]["distillation_weight"] == 1


def test_what_cannot_be_recovered_is_refused_before_the_work(
    recover: Recover, densepack: CommandLine, tiny_files: TinyFiles, tmp_path: Path
) -> None:
    other = write_start(tmp_path / "other", tiny_start(extra=("elephant",)))
    [line] = recover(tmp_path / "out", "--density", 0.4, "--teacher", other).error_lines
    assert "has another vocabulary" in line
    assert not (tmp_path / "out.state").exists()
    for option in (("--teacher", tiny_files.teacher), ("--stages", 2)):
        done = densepack(
            "shrink", tiny_files.start, tmp_path / "out", "--data", tiny_files.data, "--density", 0.4, *option
        )
        assert "--teacher and --stages are for what is recovered: say how long, --recover STEPS" in done.error_lines[0]
