"""Writes a card and its pictures into the checkpoint's folder."""

from __future__ import annotations

from pathlib import Path

from densepack_export.card import plots
from densepack_export.card.facts import CardFacts
from densepack_export.card.text import CardChoices, Picture, model_card
from densepack_runtime.files import write_text_atomic

CARD = "README.md"
HEADS, DENSITY, TRAINING, TRADE_OFFS = "heads.svg", "density.svg", "training.svg", "trade_offs.svg"


def write_card(facts: CardFacts, choices: CardChoices) -> list[Path]:
    """Write everything, the card last; returns the paths. What is already there under these names is replaced."""
    folder = facts.folder
    pictures = [Picture(HEADS, "What is left", "heads that are left and heads that are gone, by layer")]
    plots.heads_plot(facts.inspection, folder / HEADS)
    pictures.append(Picture(DENSITY, "What is left", "non-zero weights of every matrix, by layer"))
    plots.density_plot(facts.checkpoint, facts.inspection, folder / DENSITY)
    if facts.log:
        pictures.append(Picture(TRAINING, "How it was made", "losses, density, heads and F1 by step"))
        plots.training_plot(facts.log, folder / TRAINING)
    if facts.trade_offs:
        pictures.append(Picture(TRADE_OFFS, "Other densities", "F1 against speed"))
        plots.trade_off_plot(facts.trade_offs, folder / TRADE_OFFS)
    write_text_atomic(folder / CARD, model_card(facts, choices, pictures))
    return [folder / picture.file for picture in pictures] + [folder / CARD]
