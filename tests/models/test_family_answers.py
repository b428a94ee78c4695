"""`compat="transformers"` for every family: what the pipeline of transformers 4.57 answered with the same tiny models.

`tests/peers/family_checkpoints.py` wrote them and `record_pipeline.py` recorded their answers to the edge cases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from densepack_models.families import FAMILIES
from densepack_models.families.family import Family
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import pack
from densepack_models.torch_session import TorchSession
from densepack_runtime.question_answering.pipeline_compat import PipelineRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from tests.models.tiny_checkpoints import written_checkpoint
from tests.peers.family_checkpoints import LONGEST

RESULTS = Path(__file__).parents[1] / "peers" / "results"


def recorded(family: Family) -> list[dict[str, Any]]:
    document = json.loads((RESULTS / f"pipeline_{family.model_type}.json").read_text(encoding="utf-8"))
    assert document["versions"]["transformers"].startswith("4.57")
    cases: list[dict[str, Any]] = document["cases"]
    return cases


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_answers_are_those_of_the_pipeline(family: Family, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(written_checkpoint(tmp_path / "model", family))
    windower = Windower(checkpoint.tokenizer_json, max_length=LONGEST, doc_stride=LONGEST // 2)
    compared = 0
    with TorchSession(pack(checkpoint)) as session:
        for case in recorded(family):
            for run in case["runs"]:
                rules = PipelineRules(**run["settings"])
                answerer = QuestionAnswerer(session, windower, pipeline_rules=rules)
                found = answerer.best_answers(
                    question=case["question"], context=case["context"], count=rules.top_k, compat="transformers"
                )
                wanted = [one for one in run["answers"] if one["score"] > 0]  # see pipeline_compat.py
                told = [(one.text, one.start, one.end) for one in found]
                assert told == [(one["answer"], one["start"], one["end"]) for one in wanted], (
                    case["name"],
                    run["settings"],
                )
                assert [one.score for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-3)
                compared += 1
    assert compared >= 100
