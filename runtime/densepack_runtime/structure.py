"""What a packed BERT consists of: which heads and how many FFN units each layer still has, and what that costs.

The structure alone defines the module (`PackedBertForQuestionAnswering(structure)`), the parameter counts that
`densepack inspect` prints and the FLOPs that benchmarks compare with. It is written to `structure.json` beside the
weights. Nothing here needs torch.

    structure = Structure.read(Path("packed/structure.json"))
    structure.parameters, structure.linear_density, structure.cost.flops(384)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Literal

from densepack_runtime.errors import CheckpointError, joined
from densepack_runtime.host.records import Document, data_from_record

STRUCTURE = Document("structure.json", CheckpointError, "pack the checkpoint again with this version")
# The least and the most that a size can be: more than any model has, and little enough for every figure to be computed.
SIZES = {
    "vocab_size": (1, 2**22),
    "max_position_embeddings": (1, 2**22),
    "type_vocab_size": (0, 2**12),
    "hidden_size": (1, 2**16),
    "num_attention_heads": (1, 2**12),
    "intermediate_size": (1, 2**18),
    "num_layers": (1, 2**12),
    "embedding_size": (1, 2**16),
}
LARGEST_NORM_EPS = 1.0

# The weight matrices of a layer: what tables call them, and the packed module's parts that have them.
MATRICES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.output",
    "FFN in": "ffn.intermediate",
    "FFN out": "ffn.output",
}

Activation = Literal["gelu", "gelu_new", "relu"]
LayerNormType = Literal["layer_norm", "no_norm"]
Positions = Literal["original", "stored"]
TokenTypes = Literal["fed", "constant", "none"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating point operations (a multiply-add counts as two) of a window of S tokens: per_token * S +
    per_token_pair * S**2.
    """

    per_token: int
    per_token_pair: int

    def flops(self, length: int) -> int:
        """Those of one window of `length` tokens."""
        return self.per_token * length + self.per_token_pair * length**2


@dataclass(frozen=True, slots=True)
class LayerStructure:
    """One encoder layer after packing.

    `heads` are the survivors by id, ascending. `ffn_units` are the positions, ascending, that the surviving units had;
    `ffn_width` is their number plus the zero units that `--pad-to` added behind them. `folded_heads` and
    `folded_units` were dropped although their output was a constant other than zero: it went into a bias.
    `query_dead_heads` are survivors whose queries or keys are all zero: they still average their values, so an exact
    packing has to keep them.
    """

    heads: tuple[int, ...]
    ffn_units: tuple[int, ...]
    ffn_width: int
    folded_heads: tuple[int, ...] = ()
    folded_units: int = 0
    query_dead_heads: tuple[int, ...] = ()

    def faults(self, heads: int, units: int) -> Iterator[str]:
        """What no layer of a model with so many heads and FFN units can be."""
        for name, numbers, count in (
            ("heads", self.heads, heads),
            ("folded_heads", self.folded_heads, heads),
            ("query_dead_heads", self.query_dead_heads, heads),
            ("ffn_units", self.ffn_units, units),
        ):
            if list(numbers) != sorted({*numbers}) or min(numbers, default=0) < 0 or max(numbers, default=0) >= count:
                yield f"{name} {shortened(list(numbers[-6:]))} of {count}"
        if not 0 <= self.folded_units <= units:
            yield f"{shortened(self.folded_units)} folded_units of {units}"
        if not len(self.ffn_units) <= self.ffn_width <= SIZES["intermediate_size"][1]:
            yield f"{len(self.ffn_units)} FFN units in a width of {shortened(self.ffn_width)}"


@dataclass(frozen=True, slots=True)
class Structure:
    """Sizes of the original model and what is left of each layer.

    `head_ids` and `ffn_positions` say what the numbers in the layers mean: "original" ids of the unpruned model, or
    positions as "stored" in a file that has lost the original ones.

    Families differ in their embeddings. `position_pad_id` None: a token's position is its place. Otherwise the tokens
    that are not this id are counted, from `position_pad_id` + 1 on, and those that are have its position. `token_types`
    are "fed" with every batch, a "constant" row 0 of the table for all tokens, or "none". Embeddings that are
    `embedding_size` wide (None: the hidden size) are projected to the hidden size behind their norm, where they differ.
    These fields came with schema 2; what is read from schema 1 has the defaults, and is one of schema 2 from then on.
    """

    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    layers: tuple[LayerStructure, ...]
    layer_norm_eps: float = 1e-12
    hidden_act: Activation = "gelu"
    layer_norm_type: LayerNormType = "layer_norm"
    head_ids: Positions = "original"
    ffn_positions: Positions = "original"
    source_sha256: str = ""
    position_pad_id: int | None = None
    token_types: TokenTypes = "fed"
    embedding_size: int | None = None
    schema: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        """Refuse what no model can be, so that every figure can be computed. Raises CheckpointError."""
        faults = [
            f"{name} {shortened(size)}"
            for name, (least, most) in SIZES.items()
            if (size := getattr(self, name)) is not None and not least <= size <= most
        ]
        if self.position_pad_id is not None and not 0 <= self.position_pad_id < self.max_position_embeddings - 1:
            faults.append(
                f"position_pad_id {shortened(self.position_pad_id)} of {self.max_position_embeddings} positions"
            )
        if not 0 < self.layer_norm_eps <= LARGEST_NORM_EPS:
            faults.append(f"layer_norm_eps {self.layer_norm_eps}")
        if not faults and self.hidden_size % self.num_attention_heads:
            faults.append(f"hidden_size {self.hidden_size} for {self.num_attention_heads} heads")
        if faults := faults or list(self._layer_faults()):
            raise CheckpointError(f"no model has {joined(faults, ', ')}")
        object.__setattr__(self, "schema", 2)

    def _layer_faults(self) -> Iterator[str]:
        different = {id(layer): (index, layer) for index, layer in enumerate(self.layers)}  # of a dense model, one
        for index, layer in different.values():
            for fault in layer.faults(self.num_attention_heads, self.intermediate_size):
                yield f"{fault} in layer {index}"

    @property
    def head_size(self) -> int:
        """Width of one head: hidden size over the *original* number of heads."""
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings and their norm."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def is_projected(self) -> bool:
        """Whether embeddings have another width than hidden states."""
        return self.embedding_width != self.hidden_size

    @property
    def longest_input(self) -> int:
        """Tokens that the positions hold."""
        return self.max_position_embeddings - (0 if self.position_pad_id is None else self.position_pad_id + 1)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def heads_left(self) -> int:
        return sum(len(layer.heads) for layer in self.layers)

    @property
    def units_left(self) -> int:
        """FFN units, without those that padding adds."""
        return sum(len(layer.ffn_units) for layer in self.layers)

    @property
    def heads_total(self) -> int:
        return self.num_layers * self.num_attention_heads

    def dense(self) -> Structure:
        """The same model with nothing removed."""
        full = LayerStructure(
            heads=tuple(range(self.num_attention_heads)),
            ffn_units=tuple(range(self.intermediate_size)),
            ffn_width=self.intermediate_size,
        )
        return replace(self, layers=(full,) * self.num_layers, head_ids="original", ffn_positions="original")

    # --- parameters -------------------------------------------------------------------------------------------------

    @property
    def embedding_parameters(self) -> int:
        """Word, position and token type embeddings with their LayerNorm, and their projection."""
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        projection = (self.embedding_width + 1) * self.hidden_size if self.is_projected else 0
        return (rows + 2) * self.embedding_width + projection

    def layer_linear_weights(self, layer: LayerStructure) -> int:
        """Entries of the six weight matrices of a layer, biases not counted."""
        attention_width = len(layer.heads) * self.head_size
        return 4 * attention_width * self.hidden_size + 2 * layer.ffn_width * self.hidden_size

    @property
    def projection_weights(self) -> int:
        """Entries of the matrix that projects embeddings; 0 where there is none."""
        return self.embedding_width * self.hidden_size if self.is_projected else 0

    @property
    def linear_weights(self) -> int:
        return sum(self.layer_linear_weights(layer) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Parameters of the module: weights, biases, norms, embeddings and the two rows of the answer head."""
        hidden = self.hidden_size
        per_layer = 4 * hidden + 2 * hidden  # two norms; attention output bias and second FFN bias
        biases = sum(3 * len(layer.heads) * self.head_size + layer.ffn_width for layer in self.layers)
        answer_head = 2 * hidden + 2
        return self.embedding_parameters + self.linear_weights + biases + self.num_layers * per_layer + answer_head

    @property
    def linear_density(self) -> float:
        """Share of the encoder's linear weights that is left, 0 to 1."""
        return self.linear_weights / self.dense().linear_weights

    @property
    def overall_density(self) -> float:
        """Share of all parameters that is left, counted as the published models counted it, 0 to 1.

        nn_pruning leaves the query, key and value biases of removed heads out of the dense total, which makes 42.398 %
        of the published model instead of 42.392 %.
        """
        removed = self.heads_total - self.heads_left
        return self.parameters / (self.dense().parameters - 3 * removed * self.head_size)

    @property
    def cost(self) -> Cost:
        """Of the linear layers for every token, and of the two attention products for every pair of tokens."""
        return Cost(
            per_token=2 * (self.linear_weights + self.projection_weights + 2 * self.hidden_size),
            per_token_pair=4 * self.heads_left * self.head_size,
        )

    # --- JSON -------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps(data_from_record(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read the text of a structure.json. Raises CheckpointError that names what is wrong with it and where."""
        return STRUCTURE.parse(text, cls)

    @classmethod
    def read(cls, path: Path) -> Structure:
        """Read a structure.json. Raises CheckpointError as `from_json` does."""
        return STRUCTURE.read(path, cls)
