"""Writes a card and its pictures into the checkpoint's folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from densepack_export.card.facts import CardFacts
from densepack_export.card.text import CardChoices, Picture, model_card
from densepack_export.plots.layers import density_plot, heads_plot
from densepack_export.plots.matrices import matrices_of_checkpoint
from densepack_export.plots.speed import trade_off_plot
from densepack_export.plots.training import training_plot
from densepack_models.formats.writer import CARD
from densepack_runtime.host.files import new_file

HEADS, DENSITY, TRAINING, TRADE_OFFS = "heads.svg", "density.svg", "training.svg", "trade_offs.svg"


def write_card(facts: CardFacts, choices: CardChoices) -> list[Path]:
    """Write everything, the card last; returns the paths. What is already there under these names is replaced."""
    folder, structure = facts.folder, facts.inspection.structure
    matrices = matrices_of_checkpoint(facts.checkpoint, structure)
    drawn = {
        HEADS: heads_plot(structure),
        DENSITY: density_plot(structure, matrices, "open the picture itself and point at a bar to see its matrix"),
    }
    pictures = [
        Picture(HEADS, "What is left", "heads that are left and heads that are gone, by layer"),
        Picture(DENSITY, "What is left", "non-zero weights of every matrix, by layer"),
    ]
    if facts.log:
        pictures.append(Picture(TRAINING, "How it was made", "losses, density, heads and F1 by step"))
        drawn[TRAINING] = training_plot(facts.log)
    if facts.trade_offs:
        pictures.append(Picture(TRADE_OFFS, "Other densities", "F1 against speed"))
        drawn[TRADE_OFFS] = trade_off_plot(facts.trade_offs)
    with ExitStack() as written:  # all of it or nothing; renamed in the other order
        for name, text in {CARD: model_card(facts, choices, pictures), **drawn}.items():
            written.enter_context(new_file(folder / name)).write_text(text, encoding="utf-8")
    return [folder / picture.file for picture in pictures] + [folder / CARD]
