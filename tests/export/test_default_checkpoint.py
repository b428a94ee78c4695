"""The embedded checkpoint is what its card says: scores, what is left, how it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from densepack_export.card import gather
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad, score_predictions

# A fifth of the development set: F1 of one question scatters by 37 points, that of 2,114 by 0.8.
EVERY, SCATTER = 5, 2.5


@pytest.fixture(scope="module")
def card(default_checkpoint: Path) -> Any:
    return ModelCard.load(default_checkpoint / "README.md")


def test_the_card_names_what_is_left(card: Any, default_checkpoint: Path) -> None:
    structure = gather(default_checkpoint).inspection.structure
    heads = f"{structure.heads_total - structure.heads_left} of {structure.heads_total} heads"
    for said in (
        f"{100 * structure.linear_density:.1f} % of the linear weights are left, {heads}",
        f"Packed dense it has {structure.parameters:,} of {structure.dense().parameters:,} parameters",
    ):
        assert said in card.content


def test_the_card_and_its_history_belong_together(card: Any, default_checkpoint: Path) -> None:
    facts = gather(default_checkpoint)
    assert [stage["command"] for stage in facts.stages] == ["finetune", "shrink", "finetune"]
    for stage in facts.stages:
        assert stage["command_line"] in card.content
    assert facts.stages[-1]["result"]["parameters"] == facts.inspection.structure.parameters
    assert facts.file_bytes <= 45e6


@pytest.mark.slow
@pytest.mark.shared
def test_it_scores_as_its_card_says(card: Any, default_bundle: Path, shared_data: Path) -> None:
    said = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    dataset = read_squad(shared_data / "squad" / "dev-v1.1.json")
    part = replace(dataset, questions=dataset.questions[::EVERY])
    with QuestionAnswerer.open(default_bundle) as answerer:
        score = score_predictions(part, answerer.predict(part))
    assert score.f1 == pytest.approx(said["f1"], abs=SCATTER)
    assert score.exact_match == pytest.approx(said["exact_match"], abs=SCATTER)
