"""`make demo-serve`: the server on a bundle, one question, the address of its page, and its end.

python -m densepack_export.checks.demo_serve demo/bundle
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from densepack_export.checks.demo import OWN_CONTEXT, OWN_QUESTIONS
from densepack_runtime.errors import BackendError
from densepack_runtime.host.console import print_table, run_command_line, tell

ANSWER_S = 60.0
# A request takes 30 s at most, and the server ends when the last one is answered.
END_S = 60.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo_serve(bundle: Annotated[Path, typer.Argument(help="A bundle.")]) -> None:
    """Start the server on a free port, ask it one question, say where its page is, and stop it."""
    question = OWN_QUESTIONS[0]
    with _served(bundle) as address:
        found, steps = _ask(address, {"question": question, "context": OWN_CONTEXT, "n_best": 3})
        rows = [(one["answer"], f"{one['score']:.3f}") for one in found["answers"]]
        print_table(question, ("answer", "score"), rows)
        tell(f"it took {steps}")
        tell(f'curl {address}/v1/answer -d \'{{"question": "Who …?", "context": "…"}}\'')
        tell(f"the page to ask from: {address}/")
        if sys.stdin.isatty():
            input("Enter stops the server: ")


@contextmanager
def _served(bundle: Path) -> Iterator[str]:
    """The address of a server that ends with the block. Raises BackendError where it does not start."""
    command = [sys.executable, "-m", "densepack_export.cli", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _ready(process)
        finally:
            process.terminate()
            tell(process.communicate(timeout=END_S)[1].rstrip())


def _ready(process: subprocess.Popen[str]) -> str:
    for line in process.stderr or ():
        tell(line.rstrip())
        if found := re.match(r"ready: (\S+)", line):
            return found[1]
    raise BackendError("the server did not start: what it said stands above")


def _ask(address: str, question: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The response, and where the server says that the time went."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=ANSWER_S)
    connection.request("POST", "/v1/answer", json.dumps(question))
    response = connection.getresponse()
    return json.loads(response.read()), response.headers["Server-Timing"]


if __name__ == "__main__":
    run_command_line(app)
