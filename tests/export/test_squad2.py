"""SQuAD 2 through build, parity and eval: the same EM and F1 at every rung, null answers included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.models.pruning.tiny_task import LONGEST, squad_document, tiny_start, write_start

# A random model that finds no answer to some questions and one to others.
SEED = 5
QUESTIONS = 32


@pytest.fixture(scope="module")
def squad2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third question is impossible."""
    document = squad_document(QUESTIONS)
    document["version"] = "v2.0"
    for place, paragraph in enumerate(document["data"][0]["paragraphs"]):
        [question] = paragraph["qas"]
        question["is_impossible"] = place % 3 == 0
        if question["is_impossible"]:
            question["answers"] = []
    path = tmp_path_factory.mktemp("squad2") / "v2.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_build_parity_and_eval_agree_on_null_answers(squad2: Path, densepack: CommandLine, tmp_path: Path) -> None:
    start, bundle = write_start(tmp_path / "start", tiny_start(seed=SEED)), tmp_path / "bundle"
    sizes = ("--max-length", LONGEST, "--doc-stride", 8)
    built = densepack("build", start, bundle, "--squad", squad2, *sizes, "--no-engine")
    assert built.code == 0, built.err
    assert built.next_step == f"densepack prove {bundle}"
    predictions = tmp_path / "predictions.json"
    done = densepack("eval", bundle, "--squad", squad2, "--predictions", predictions, "--json")
    score = json.loads(done.out)
    assert {"has_answer", "no_answer"} <= set(score)
    empty = sum(not text for text in json.loads(predictions.read_text(encoding="utf-8")).values())
    assert 5 < empty < QUESTIONS - 5
    recorded = densepack("parity", bundle, "--squad", squad2, "--json")
    climbed = densepack("parity", bundle, "--squad", squad2, "--checkpoint", start, "--json")
    reports = [json.loads((bundle / "parity.json").read_text(encoding="utf-8"))]
    reports += [json.loads(outcome.out) for outcome in (recorded, climbed)]
    for report in reports:
        assert report["passed"]
        for rung in report["rungs"]:
            if rung["precision"] == "fp32" and rung["questions"] == QUESTIONS:
                assert (rung["exact_match"], rung["f1"]) == (score["exact_match"], score["f1"]), rung["name"]
    halves = json.loads(
        densepack("eval", bundle, "--squad", squad2, "--backend", "onnxruntime", "--precision", "fp16", "--json").out
    )
    for report in reports:
        [half] = [rung for rung in report["rungs"] if rung["name"] == "ONNX FP16"]
        assert (half["exact_match"], half["f1"]) == (halves["exact_match"], halves["f1"])
    assert sum(rung["questions"] == QUESTIONS for rung in reports[0]["rungs"]) >= 4
