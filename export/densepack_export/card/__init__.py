"""The model card of a checkpoint: facts gathered, pictures drawn, text written.

write_card(gather(Path("checkpoint")), CardChoices(title="…"))
"""

from densepack_export.card.facts import CardFacts, gather
from densepack_export.card.text import CardChoices
from densepack_export.card.writing import write_card
from densepack_models.formats.writer import CARD

__all__ = ["CARD", "CardChoices", "CardFacts", "gather", "write_card"]
