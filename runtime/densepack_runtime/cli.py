"""The commands that a production host can run: answer, eval, doctor.

`densepack_export.cli` adds those that need PyTorch and owns the entry point; this module imports nothing heavy.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from densepack_runtime.backends import BACKENDS, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.console import print_json, print_table, tell
from densepack_runtime.engines import FLAVOURS, Host, installed_version, misfit
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.files import write_text_atomic
from densepack_runtime.gpus import nvidia_gpus
from densepack_runtime.question_answerer import Compat, QuestionAnswerer
from densepack_runtime.session import ComputePrecision
from densepack_runtime.squad import (
    SquadDataset,
    SquadScore,
    read_squad,
    sample_squad_path,
    score_predictions,
    write_predictions,
)

app = typer.Typer(
    name="densepack",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pack block-pruned BERT question-answering models dense, export and run them, prove that nothing was lost.",
)

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle folder, as `densepack build` wrote it.")
]
BackendOption = Annotated[str, typer.Option(help=f"Which backend runs it: {', '.join(BACKENDS)}.")]
PrecisionOption = Annotated[
    ComputePrecision | None,
    typer.Option(help="By default what the backend does best; bf16 and int8 are OpenVINO's.", show_default=False),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; by default the physical cores.", show_default=False)
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="Replay CUDA graphs on a GPU, one for each padded shape.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
SquadOption = Annotated[
    str,
    typer.Option(
        "--squad", metavar="FILE", help="A SQuAD v1.1 or v2.0 file (.json or .json.gz), or `sample`: the embedded set."
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use only the first N questions.", show_default=False)]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command. `--debug` is read by `run_command_line`."""


def load_squad(name: str, limit: int | None = None) -> SquadDataset:
    """The dataset that `--squad` names: a file, or the embedded `sample`."""
    return read_squad(sample_squad_path() if name == "sample" else Path(name), limit=limit)


@app.command()
def answer(
    bundle: BundleArgument,
    question: Annotated[str | None, typer.Option("--question", "-q", help="The question.", show_default=False)] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="The text to answer it from.", show_default=False)
    ] = None,
    context_file: Annotated[
        Path | None, typer.Option(help="Read the context from a UTF-8 file.", dir_okay=False, show_default=False)
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSON lines {"question": …, "context": …, "id": …} from a file or - (stdin); JSON lines come out.',
            show_default=False,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line.")] = False,
    compat: Annotated[bool, typer.Option("--compat", help="Answer as the transformers 4 pipeline did.")] = False,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    cuda_graphs: CudaGraphsOption = True,
    json_output: JsonOption = False,
) -> None:
    """Answer one question, or JSON lines.

    Example: densepack answer bundle -q "Who is Frederic Chopin?" -c "Frédéric Chopin was a Polish composer."
    """
    one = question is not None
    if one == (lines is not None):
        raise typer.BadParameter("give either --question with --context, or --lines")
    mode: Compat | None = "transformers" if compat else None
    with QuestionAnswerer.open(
        bundle, backend=backend, precision=precision, threads=threads, cuda_graphs=cuda_graphs
    ) as answerer:
        if question is not None:
            found = answerer.answer(question=question, context=_context(context, context_file), compat=mode)
            if json_output:
                print_json(found.as_dict())
            else:
                sys.stdout.write(f"{found.text}\n")
                tell(f"characters {found.start} to {found.end}, score {found.score:.3f}")
        else:
            with _open_lines(str(lines)) as source:
                _answer_lines(answerer, source, strict=strict, compat=mode)


def _context(context: str | None, context_file: Path | None) -> str:
    if (context is None) == (context_file is None):
        raise typer.BadParameter("give the context with either --context or --context-file")
    if context is not None:
        return context
    try:
        return Path(str(context_file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the context file cannot be read: {error}") from error


def _open_lines(name: str) -> TextIO:
    if name == "-":
        return sys.stdin
    try:
        return Path(name).open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"the lines cannot be read: {error}") from error


@dataclass
class _LineReader:
    """Parses JSON lines; bad ones become InputError values that keep their place in the order."""

    source: Iterable[str]
    places: deque[tuple[int, Any]] = field(default_factory=deque)  # line number and id of what is under way

    def __iter__(self) -> Iterator[tuple[str, str] | InputError]:
        for number, line in enumerate(self.source, start=1):
            if not line.strip():
                continue
            parsed = _parse_line(line)
            self.places.append((number, parsed.get("id") if isinstance(parsed, dict) else None))
            yield parsed if isinstance(parsed, InputError) else (parsed["question"], parsed["context"])


def _parse_line(line: str) -> dict[str, Any] | InputError:
    try:
        data = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return InputError(f"not JSON: {error}")
    if not isinstance(data, dict):
        return InputError(f"a JSON object is needed, this is {type(data).__name__}")
    for name in ("question", "context"):
        if not isinstance(data.get(name), str):
            return InputError(f'"{name}" must be a string, it is {data.get(name)!r}')
    return data


def _answer_lines(answerer: QuestionAnswerer, source: Iterable[str], *, strict: bool, compat: Compat | None) -> None:
    reader = _LineReader(source)
    good = bad = 0
    for found in answerer.answer_many(reader, compat=compat, on_error="yield"):
        number, identity = reader.places.popleft()
        head = {"line": number} if identity is None else {"line": number, "id": identity}
        if isinstance(found, InputError):
            if strict:
                raise InputError(f"line {number}: {found}")
            bad += 1
            tell(f"line {number}: {found}")
            body: dict[str, Any] = {"error": str(found)}
        else:
            good += 1
            body = found.as_dict()
        sys.stdout.write(json.dumps({**head, **body}, ensure_ascii=False) + "\n")
    tell(f"{good} answered, {bad} bad lines")


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
    json_output: JsonOption = False,
) -> None:
    """Exact match and F1 of a bundle on a SQuAD file.

    Example: densepack eval bundle --squad dev-v1.1.json --predictions predictions.json
    """
    dataset = load_squad(squad, limit)
    with QuestionAnswerer.open(
        bundle, backend=backend, precision=precision, threads=threads, cuda_graphs=cuda_graphs
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


@app.command()
def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="Also say how this bundle would run here.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """What is here: GPU, providers, versions; and what would run a bundle, and why."""
    from densepack_runtime.onnxruntime_session import onnxruntime_conflict
    from densepack_runtime.versions import package_versions

    gpus = nvidia_gpus()
    facts: dict[str, Any] = {
        "NVIDIA GPU": [str(gpu) for gpu in gpus],
        "driver": f"for CUDA {gpus[0].driver_cuda}" if gpus else None,
        **{f"{flavour} installed": installed_version(flavour) or None for flavour in FLAVOURS},
        "onnxruntime providers": _providers(),
        "conflict": onnxruntime_conflict(),
        **package_versions(),
    }
    if bundle is not None:
        facts.update(_bundle_facts(Bundle.open(bundle)))
    if json_output:
        print_json(facts)
    else:
        print_table("This host", ("what", "value"), [(name, _shown(value)) for name, value in facts.items()])


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """How each plan of a bundle fits this host, and what `auto` would open."""
    host = Host.here()
    facts: dict[str, Any] = {"bundle": str(bundle.folder)}
    for entry in bundle.manifest.engines:
        facts[entry.plan] = misfit(entry, host, bundle.folder) or f"fits {host.gpu}"
    try:
        facts["would open"] = str(choose_backend(bundle, host=host))
    except BackendError as error:
        facts["would open"] = f"nothing: {error}"
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
