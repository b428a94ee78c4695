"""The command `card`; registered by `densepack_export.cli`, and as light at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densepack_runtime.commands.options import JsonOption, app
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import print_json, tell


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder; the card goes there.")],
    title: Annotated[str | None, typer.Option(help="By default the folder's name.", show_default=False)] = None,
    about: Annotated[str, typer.Option(help="A paragraph in your own words.", show_default=False)] = "",
    license_id: Annotated[
        str | None, typer.Option("--license", help="The hub's licence id, like apache-2.0.", show_default=False)
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="`densepack eval --json` of this model.", show_default=False)
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option("--original-eval", help="The same of the model it was made from.", show_default=False),
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option("--bench", help="`densepack bench --out` of dense and packed.", show_default=False)
    ] = None,
    trade_offs: Annotated[
        Path | None, typer.Option("--trade-offs", help="Other densities, as JSON.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a card that is there.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write the model card of a checkpoint: what it is, how it was made, what it scores, with pictures.

    Example: densepack card pruned/ --eval eval.json --bench bench.json --license cc-by-sa-4.0
    """
    for package in ("torch", "transformers", "huggingface_hub"):
        require(package, "export")
    require("matplotlib", "report")
    from densepack_export.card import CARD, CardChoices, gather, write_card

    if (checkpoint / CARD).exists() and not overwrite:
        raise InputError(f"{checkpoint / CARD} exists already: pass --overwrite to replace it")
    facts = gather(checkpoint, evaluation=evaluation, original=original, benchmark=benchmark, trade_offs=trade_offs)
    paths = write_card(facts, CardChoices(title or checkpoint.resolve().name, license_id, about))
    if json_output:
        print_json({"files": [str(path) for path in paths]})
    for path in paths:
        tell(f"wrote {path}")
