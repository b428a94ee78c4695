"""`make demo`: from the embedded checkpoint to a bundle that answers, with the figures that matter in one table.

python -m densepack_export.checks.demo models/checkpoints/default demo
"""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from densepack_export.bench.sides import open_side
from densepack_export.build import BuildOptions, BuildResult, build_bundle
from densepack_runtime.benchmark.document import run_benchmark
from densepack_runtime.benchmark.latency import latency_steps
from densepack_runtime.benchmark.sides import Cell, Settings
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import print_table, progress_bar, run_command_line, tell, told_here
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path

# The usage example of the model card of madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1, from
# https://huggingface.co/madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1
CARD_QUESTION = "Who is Frederic Chopin?"
CARD_CONTEXT = (
    "Frédéric François Chopin, born Fryderyk Franciszek Chopin (1 March 1810 – 17 October 1849), was a Polish composer "
    "and virtuoso pianist of the Romantic era who wrote primarily for solo piano."
)
OWN_CONTEXT = (
    "The lighthouse on Kestrel Point was finished in 1887 after three winters of work. Its builder, the engineer Marta "
    "Lindqvist, chose granite from the quarry at Åsen because the sea had already washed away two towers of brick. The "
    "lamp stands 41 metres above the water and can be seen for 19 nautical miles. Since 1964 no keeper has lived there."
)
OWN_QUESTIONS = (
    "Who built the lighthouse?",
    "Why was granite chosen?",
    "How high is the lamp above the water?",
)
CELLS = (Cell(1, 128), Cell(8, 384))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    checkpoint: Annotated[Path, typer.Argument(help="A pruned checkpoint.")],
    out: Annotated[Path, typer.Argument(help="Folder for the bundle; replaced when it exists.")],
) -> None:
    """Build a bundle, answer four questions, measure, and print what came out."""
    bundle = out / "bundle"
    options = BuildOptions(squad=read_squad(sample_squad_path()), overwrite=True)
    result = build_bundle(str(checkpoint), bundle, options, told_here())
    answers = _answer(bundle)
    timing = _measure(bundle)
    print_table("answers", ("question", "answer", "score"), answers)
    print_table("what came out", ("what", "value"), [*_model_rows(result), *_speed_rows(timing), *_file_rows(result)])
    tell(f"Try it yourself: densepack answer {bundle} -q 'Who …?' -c '…'")


def _answer(bundle: Path) -> list[tuple[str, str, str]]:
    pairs = [(CARD_QUESTION, CARD_CONTEXT), *((question, OWN_CONTEXT) for question in OWN_QUESTIONS)]
    with QuestionAnswerer.open(bundle) as answerer:
        answers = list(answerer.answer_many(pairs))
    return [(question, found.text, f"{found.score:.3f}") for (question, _), found in zip(pairs, answers, strict=True)]


def _measure(bundle: Path) -> dict[str, Any]:
    """Packed against dense on the CPU, on the backend that `auto` prefers there."""
    settings = Settings()
    kind = "-openvino" if importlib.util.find_spec("openvino") else "-onnxruntime"
    with ExitStack() as opened, progress_bar("speed", latency_steps(2, len(CELLS), settings)) as advance:
        sides = [open_side(f"{bundle}@{shape}{kind}", opened) for shape in ("dense", "packed")]
        return run_benchmark(sides, CELLS, settings, lambda text: advance(1, description=text))


def _model_rows(result: BuildResult) -> list[tuple[str, str]]:
    model = result.bundle.manifest.model
    structure = model.structure
    rows = [
        ("parameters, dense", f"{structure.dense().parameters:,}"),
        ("parameters, as stored", f"{model.parameters_stored:,}"),
        ("parameters, packed", f"{structure.parameters:,}"),
        ("linear weights left", f"{100 * structure.linear_density:.2f} %"),
        ("heads left", f"{structure.heads_left} of {structure.heads_total}"),
    ]
    if result.parity is not None:
        reference = result.parity.rungs[0]
        rows.append(
            (f"EM / F1 on {reference.questions} questions", f"{reference.exact_match:.2f} / {reference.f1:.2f}")
        )
    return rows


def _speed_rows(timing: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"{row['side'].partition('@')[2]} against dense, {row['batch']}x{row['length']}",
            f"{row['median']:.2f} times as fast (FLOP limit {row['flop_limit']:.2f})",
        )
        for row in timing["ratios"]
    ]


def _file_rows(result: BuildResult) -> list[tuple[str, str]]:
    bundle = result.bundle
    rows = [("bundle", str(bundle.folder))]
    rows += [(name, f"{entry.bytes / 2**20:.1f} MiB") for name, entry in sorted(bundle.manifest.files.items())]
    if result.engine is None:
        rows.append(("TensorRT plan", "none: tensorrt-rtx is not installed here"))
    return rows


if __name__ == "__main__":
    keep_freed_memory()
    run_command_line(app)
