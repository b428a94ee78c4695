"""The command `eval`: exact match and F1 of a bundle."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Unpack

import typer

from densepack_runtime.commands.options import (
    BundleArgument,
    JsonOption,
    LimitOption,
    Opening,
    SquadOption,
    StrictOption,
    app,
    with_opening,
)
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import print_json, print_table, tell
from densepack_runtime.host.files import refuse_new_file, write_text_atomic
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer, SquadPredictions
from densepack_runtime.question_answering.squad import (
    ScorePart,
    SquadDataset,
    SquadScore,
    load_squad,
    refuse_unscorable,
    score_predictions,
    write_predictions,
)

FAILURES_TOLD = 10


@app.command("eval")
@with_opening(before="strict")
def evaluate(
    bundle: BundleArgument,
    squad: SquadOption = "sample",
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write the predictions here, as the official script reads them.", show_default=False),
    ] = None,
    null_odds: Annotated[
        Path | None,
        typer.Option(help="For SQuAD 2: write each question's odds of no answer here, as JSON.", show_default=False),
    ] = None,
    limit: LimitOption = None,
    strict: StrictOption = False,
    json_output: JsonOption = False,
    **opening: Unpack[Opening],
) -> None:
    """Exact match and F1 of a bundle on a SQuAD file; predictions alone where the file has no answers.

    A question that cannot be answered counts as wrong, the others are answered all the same; the exit code is 1.

    Example: densepack eval bundle --squad dev-v1.1.json --predictions predictions.json
    """
    dataset = load_squad(squad, limit)
    _refuse_early(dataset, predictions, null_odds)
    with QuestionAnswerer.open(bundle, strict=strict, **opening) as answerer:
        found = answerer.predict_with_null_odds(dataset, progress=True, on_error="record")
    if predictions is not None:
        write_predictions(predictions, found.texts)
        tell(f"wrote {len(found.texts)} predictions to {predictions}")
    if null_odds is not None:
        write_text_atomic(null_odds, json.dumps(found.null_odds, indent=1) + "\n")
        tell(f"wrote the odds of no answer to {null_odds}")
    score = None if dataset.is_test_set else score_predictions(dataset, found.texts, failed=found.failures)
    if score is None:
        tell(f"{Path(squad).name} has no answers: there is nothing to score the predictions against")
    _show(Path(squad).name, dataset, score, found, json_output=json_output)
    _refuse_failures(found)


def _refuse_early(dataset: SquadDataset, predictions: Path | None, null_odds: Path | None) -> None:
    """Raise InputError for what would only fail after the last question."""
    if dataset.is_test_set and predictions is None:
        raise InputError(
            "the file has no answers to score against: name a file for its predictions, --predictions FILE"
        )
    if not dataset.is_test_set:
        refuse_unscorable(dataset)
    if null_odds is not None and not dataset.allows_no_answer:
        raise InputError("--null-odds is for SQuAD 2, where a question may have no answer: this file is of version 1.1")
    for path in filter(None, (predictions, null_odds)):
        refuse_new_file(path)
    if predictions is not None and null_odds is not None and predictions.resolve() == null_odds.resolve():
        raise InputError(f"--predictions and --null-odds both name {predictions}: choose two files")


def _show(
    name: str, dataset: SquadDataset, score: SquadScore | None, found: SquadPredictions, *, json_output: bool
) -> None:
    if json_output:
        failures = {"failures": {name: str(error) for name, error in found.failures.items()}} if found.failures else {}
        print_json({"squad": name, "sha256": dataset.sha256, **(score.as_dict() if score else {}), **failures})
    elif score is not None:
        print_table(name, ("questions", "count", "exact match", "F1"), _score_rows(score))


def _score_rows(score: SquadScore) -> list[tuple[str, ...]]:
    """All questions, for SQuAD 2 those with and without an answer, and those that failed, which count as wrong."""
    failed = None if score.failed is None else ScorePart(0.0, 0.0, score.failed)
    parts = (
        ("all", score),
        ("with an answer", score.has_answer),
        ("without an answer", score.no_answer),
        ("could not be answered", failed),
    )
    return [
        (name, str(part.count), f"{part.exact_match:.2f}", f"{part.f1:.2f}") for name, part in parts if part is not None
    ]


def _refuse_failures(found: SquadPredictions) -> None:
    """Tell of the questions that could not be answered, and end with an error that says how many they are."""
    for name, error in islice(found.failures.items(), FAILURES_TOLD):
        tell(f"question {name!r:.60}: {error}")
    if found.failures:
        total = len(found.failures) + len(found.texts)
        raise InputError(
            f"{len(found.failures)} of {total} questions could not be answered, the first are named above: shorten or "
            "remove them (--json lists them all)"
        )
