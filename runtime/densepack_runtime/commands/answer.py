"""The commands that a production host can run: answer, eval, doctor.

`densepack_export.cli` adds those that need PyTorch and owns the entry point; this module imports nothing heavy.
"""

from __future__ import annotations

import sys
from io import FileIO
from pathlib import Path
from typing import Annotated, Unpack

import typer

from densepack_runtime.commands.options import BundleArgument, JsonOption, Opening, app, with_opening
from densepack_runtime.errors import InputError
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
    """Answer one question, or JSON lines.

    A bad line becomes an object with its `error` and the rest goes on; exit 1 where no line could be answered.

    Example: densepack answer bundle -q "Who is Frederic Chopin?" -c "Frédéric Chopin was a Polish composer."
    """
    one = question is not None
    if one == (lines is not None):
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
        else:
            with _open_input(str(lines), "lines") as file:
                source = lines_of(file, flush_ms / 1000)
                answer_lines(answerer, source, sys.stdout, tell, strict=strict, compat=mode)


def _context(context: str | None, context_file: Path | None) -> str:
    if (context is None) == (context_file is None):
        raise typer.BadParameter("give the context with either --context or --context-file")
    if context is not None:
        return context
    with _open_input(str(context_file), "context") as file:
        try:
            return file.readall().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the context cannot be read from {context_file}: {error}") from error


def _open_input(name: str, what: str) -> FileIO:
    """The bytes of a file, or of stdin for -. Raises InputError when there are none to read."""
    try:
        if name != "-":
            return FileIO(name)
        if sys.stdin is None:  # Python found it closed
            raise InputError(f"the {what} cannot be read from stdin: it is closed")
        return FileIO(sys.stdin.fileno(), closefd=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the {what} cannot be read: {error}") from error
