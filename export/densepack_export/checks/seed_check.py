"""`make seed-check`: the published model end to end: its sizes, its example answer, its EM and F1 at every rung.

    python -m densepack_export.checks.seed_check [CHECKPOINT] --squad dev-v1.1.json

Fetches the model from the Hugging Face hub, or takes a folder with its files. Exit 1 with one line where something
does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from densepack_export.build import BuildOptions, BuildResult, build_bundle
from densepack_export.checks.demo import CARD_CONTEXT, CARD_QUESTION
from densepack_runtime.commands.options import LimitOption
from densepack_runtime.errors import ParityError
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import print_table, run_command_line, tell, told_here
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import load_squad

PUBLISHED_MODEL = "madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1"
STORED_PARAMETERS, PACKED_PARAMETERS = 93_149_186, 46_161_559
EXAMPLE_ANSWER, EXAMPLE_START, EXAMPLE_END = "a Polish composer and virtuoso pianist", 96, 134
EXAMPLE_SCORE, EXAMPLE_SCORE_TOLERANCE = 0.560, 0.002
EXACT_MATCH, F1, SCORE_TOLERANCE = 80.03, 87.71, 0.05
SQUAD_QUESTIONS = 10_570

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One published figure: what was expected, what was seen, and whether that is it."""

    name: str
    expected: str
    seen: str
    holds: bool


@app.command()
def seed_check(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id.")] = PUBLISHED_MODEL,
    squad: Annotated[str, typer.Option(help="The SQuAD v1.1 development set, for EM and F1.")] = "sample",
    limit: LimitOption = None,
    parity: Annotated[
        bool, typer.Option(help="Climb the ladder; a replica with random weights has nothing to show.")
    ] = True,
) -> None:
    """Check every published figure of the model; exit 1 when one does not hold."""
    dataset = load_squad(squad, limit)
    options = BuildOptions(squad=dataset, squad_name=Path(squad).name, parity=parity, engine=False)
    with TemporaryDirectory(prefix="densepack-seed-") as folder:
        bundle = Path(folder) / "bundle"
        result = build_bundle(checkpoint, bundle, options, told_here())
        with QuestionAnswerer.open(bundle) as answerer:
            example = answerer.answer(question=CARD_QUESTION, context=CARD_CONTEXT, compat="transformers")
    checks = [*size_checks(result), *example_checks(example), *score_checks(result.parity)]
    rows = [(check.name, check.expected, check.seen, "holds" if check.holds else "FAILS") for check in checks]
    print_table(f"published figures of {checkpoint}", ("what", "published", "seen", "verdict"), rows)
    failed = [check.name for check in checks if not check.holds]
    if failed:
        raise ParityError(f"these published figures do not hold: {', '.join(failed)}")


def size_checks(result: BuildResult) -> list[Check]:
    """Parameters on disk and packed."""
    model = result.bundle.manifest.model
    figures = (
        ("parameters as stored", STORED_PARAMETERS, model.parameters_stored),
        ("parameters packed", PACKED_PARAMETERS, model.structure.parameters),
    )
    return [Check(name, f"{wanted:,}", f"{seen:,}", wanted == seen) for name, wanted, seen in figures]


def example_checks(answer: Answer) -> list[Check]:
    """The card's example: text, characters, score."""
    place, seen_place = f"{EXAMPLE_START}–{EXAMPLE_END}", f"{answer.start}–{answer.end}"
    score_holds = abs(answer.score - EXAMPLE_SCORE) <= EXAMPLE_SCORE_TOLERANCE
    return [
        Check("example answer", EXAMPLE_ANSWER, answer.text, answer.text == EXAMPLE_ANSWER),
        Check("example characters", place, seen_place, place == seen_place),
        Check("example score", f"{EXAMPLE_SCORE:.3f} ± {EXAMPLE_SCORE_TOLERANCE}", f"{answer.score:.3f}", score_holds),
    ]


def score_checks(report: ParityReport | None) -> list[Check]:
    """EM and F1 of every rung that ran on the whole development set."""
    if report is None:
        return []
    whole = [rung for rung in report.rungs if rung.questions == SQUAD_QUESTIONS]
    if not whole:
        tell("EM and F1 were not compared: pass --squad with the SQuAD v1.1 development set (10,570 questions)")
    figures = [
        (f"{rung.name}: {metric}", wanted, seen)
        for rung in whole
        for metric, wanted, seen in (("EM", EXACT_MATCH, rung.exact_match), ("F1", F1, rung.f1))
    ]
    return [
        Check(name, f"{wanted:.2f} ± {SCORE_TOLERANCE}", f"{seen:.2f}", abs(seen - wanted) <= SCORE_TOLERANCE)
        for name, wanted, seen in figures
    ]


if __name__ == "__main__":
    keep_freed_memory()
    run_command_line(app)
