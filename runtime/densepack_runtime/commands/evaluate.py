"""The command `eval`: exact match and F1 of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from densepack_runtime.commands.options import (
    BackendOption,
    BundleArgument,
    CacheOption,
    CudaGraphsOption,
    JsonOption,
    LimitOption,
    PrecisionOption,
    SquadOption,
    StrictOption,
    ThreadsOption,
    app,
)
from densepack_runtime.host.console import print_json, print_table, tell
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import (
    SquadScore,
    load_squad,
    score_predictions,
    write_predictions,
)


@app.command("eval")
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
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    cuda_graphs: CudaGraphsOption = True,
    cache: CacheOption = None,
    strict: StrictOption = False,
    json_output: JsonOption = False,
) -> None:
    """Exact match and F1 of a bundle on a SQuAD file.

    Example: densepack eval bundle --squad dev-v1.1.json --predictions predictions.json
    """
    dataset = load_squad(squad, limit)
    with QuestionAnswerer.open(
        bundle,
        backend=backend,
        precision=precision,
        threads=threads,
        cuda_graphs=cuda_graphs,
        cache=cache,
        strict=strict,
    ) as answerer:
        answers = answerer.predict_with_null_odds(dataset, progress=True)
    score = score_predictions(dataset, answers.texts)
    if predictions is not None:
        write_predictions(predictions, answers.texts)
        tell(f"wrote {len(answers.texts)} predictions to {predictions}")
    if null_odds is not None:
        write_text_atomic(null_odds, json.dumps(answers.null_odds, indent=1) + "\n")
        tell(f"wrote the odds of no answer to {null_odds}")
    if json_output:
        print_json({"squad": Path(squad).name, "sha256": dataset.sha256, **score.as_dict()})
    else:
        print_table(f"{Path(squad).name}", ("questions", "count", "exact match", "F1"), _score_rows(score))


def _score_rows(score: SquadScore) -> list[tuple[str, ...]]:
    """All questions, and for SQuAD 2 those with and without an answer."""
    parts = (("all", score), ("with an answer", score.has_answer), ("without an answer", score.no_answer))
    return [
        (name, str(part.count), f"{part.exact_match:.2f}", f"{part.f1:.2f}") for name, part in parts if part is not None
    ]
