"""Options that several commands of the builder share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from densepack_runtime.errors import require

CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder, or a model id on the Hugging Face hub.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new one is whole.")]
PadToOption = Annotated[int, typer.Option(min=1, help="Round FFN widths up to this multiple with zero units.")]


def require_torch() -> None:
    for package in ("torch", "transformers", "onnx"):
        require(package, "export")


FlavourOption = Annotated[
    Literal["auto", "tensorrt", "tensorrt-rtx"],
    typer.Option(help="auto: on a GPU host the one that is installed for it, elsewhere tensorrt-rtx."),
]
LengthsOption = Annotated[str, typer.Option(help="Lengths in tokens, one profile each, separated by commas.")]
MaxBatchOption = Annotated[int, typer.Option(min=1, help="Windows in a batch at most.")]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from "64,128". Raises typer.BadParameter for anything else."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise typer.BadParameter(f"positive whole numbers separated by commas are needed, got {text!r}")
    return found
