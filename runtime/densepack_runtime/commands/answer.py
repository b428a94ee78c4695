"""The command `answer`: one question, JSON lines, or a conversation on a terminal; it imports nothing heavy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Unpack

import typer

from densepack_runtime.commands.conversation import converse, is_terminal
from densepack_runtime.commands.inputs import open_input, read_context
from densepack_runtime.commands.options import BundleArgument, JsonOption, Opening, app, with_opening
from densepack_runtime.host.console import print_json, tell
from densepack_runtime.question_answering.json_lines import answer_lines, lines_of
from densepack_runtime.question_answering.question_answerer import Compat, QuestionAnswerer


@app.command()
@with_opening(before="json_output")
def answer(
    bundle: BundleArgument,
    question: Annotated[str | None, typer.Option("--question", "-q", help="The question.", show_default=False)] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="The text to answer it from.", show_default=False)
    ] = None,
    context_file: Annotated[
        Path | None,
        typer.Option(
            help="Read the context from a UTF-8 file or - (stdin); every character of it counts, those of line ends "
            "too, only a BOM does not.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSON lines {"question": …, "context": …, "id": …} from a file or - (stdin); JSON lines come out.',
            show_default=False,
        ),
    ] = None,
    flush_ms: Annotated[
        int,
        typer.Option(
            min=0,
            help="With --lines: answer what has come when no further line is ready within so many milliseconds; a "
            "program that writes to a pipe can wait for its answers.",
        ),
    ] = 50,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad line, and refuse a bundle that is not proven.")
    ] = False,
    compat: Annotated[bool, typer.Option("--compat", help="Answer as the transformers 4 pipeline did.")] = False,
    json_output: JsonOption = False,
    **opening: Unpack[Opening],
) -> None:
    """Answer one question, JSON lines, or, on a terminal, what is asked there.

    Without --question and --lines a terminal asks for a context and then for questions, until an empty line or ^D;
    `:context` takes another context, `:context FILE` from a file.

    A bad line becomes an object with its `error` and the rest goes on; exit 1 where no line could be answered.

    Example: densepack answer bundle -q "Who is Frederic Chopin?" -c "Frédéric Chopin was a Polish composer."
    """
    asks = question is None and lines is None and not json_output and is_terminal()
    if not asks and (question is None) == (lines is None):
        raise typer.BadParameter("give either --question with --context, or --lines")
    mode: Compat | None = "transformers" if compat else None
    with QuestionAnswerer.open(bundle, strict=strict, **opening) as answerer:
        if question is not None:
            found = answerer.answer(question=question, context=_context(context, context_file), compat=mode)
            if json_output:
                print_json(found.as_dict())
            else:
                sys.stdout.write(f"{found.text}\n")
                tell(f"characters {found.start} to {found.end}, score {found.score:.3f}")
        elif asks:
            given = context is not None or context_file is not None
            converse(answerer, _context(context, context_file) if given else None, mode)
        else:
            with open_input(str(lines), "lines") as file:
                source = lines_of(file, flush_ms / 1000)
                answer_lines(answerer, source, sys.stdout, tell, strict=strict, compat=mode)


def _context(context: str | None, context_file: Path | None) -> str:
    if context is not None and context_file is None:
        return context
    if context_file is None or context is not None:
        raise typer.BadParameter("give the context with either --context or --context-file")
    return read_context(context_file)
