"""Questions from a terminal, one after another, about one context.

    converse(answerer, context=None, compat=None)

An empty line or ^D ends it; `:context` asks for another context, `:context FILE` reads it from a file.
"""

from __future__ import annotations

import importlib
import sys
import time
from contextlib import suppress
from pathlib import Path

from densepack_runtime.commands.inputs import read_context
from densepack_runtime.errors import InputError
from densepack_runtime.host.console import one_line, tell
from densepack_runtime.question_answering.question_answerer import Compat, QuestionAnswerer

_NEW_CONTEXT = ":context"


def is_terminal() -> bool:
    """Whether somebody sits there who can be asked."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def converse(answerer: QuestionAnswerer, context: str | None, compat: Compat | None) -> None:
    """Answer what is asked until the end; what cannot be answered is told, and the next question may be asked."""
    with suppress(ImportError):
        importlib.import_module("readline")  # `input` then takes lines of any length, and has a history
    with suppress(EOFError):
        context = context or _typed_context()
        while context and (line := input("question> ").strip()):
            try:
                command, _, file = line.partition(" ")
                if command == _NEW_CONTEXT:
                    context = read_context(Path(file.strip())) if file.strip() else _typed_context()
                else:
                    _answer(answerer, line, context, compat)
            except InputError as error:
                tell(f"error: {one_line(error)}")


def _typed_context() -> str:
    tell("The context, then an empty line:")
    return "\n".join(iter(lambda: input("context> "), ""))


def _answer(answerer: QuestionAnswerer, question: str, context: str, compat: Compat | None) -> None:
    start = time.perf_counter()
    found = answerer.answer(question=question, context=context, compat=compat)
    milliseconds = 1000 * (time.perf_counter() - start)
    sys.stdout.write(f"{found.text or '(no answer)'}\n")
    tell(f"  score {found.score:.3f}, characters {found.start} to {found.end}, {milliseconds:.1f} ms")
