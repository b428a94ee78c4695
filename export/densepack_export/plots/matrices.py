"""Where the weights of every matrix are: counts and 32x32 blocks at the size the matrix had before pruning.

matrices = matrices_of_checkpoint(checkpoint, structure)             # as they are stored
matrices = matrices_of_graph(bundle.graph("fp32"), structure)        # packed, put back where they were
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.structure import MATRICES, LayerStructure, Structure

if TYPE_CHECKING:
    from densepack_models.formats.checkpoint import Checkpoint

BLOCK = 32
# Matrices whose heads or units are columns; those of the others are rows.
_BY_COLUMNS = ("output", "FFN out")

NonZero = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix. `blocks` bool [rows, columns]: whether a 32x32 block of the full size has a non-zero entry."""

    layer: int
    name: str
    nonzero: int
    size: int
    blocks: NonZero

    @property
    def density(self) -> float:
        """Share of the original entries that is not zero, 0 to 1."""
        return self.nonzero / self.size


def matrices_of_checkpoint(checkpoint: Checkpoint, structure: Structure) -> tuple[Matrix, ...]:
    """All matrices of a checkpoint; heads that it stores are put where they were, FFN units stay as stored."""

    def find(layer: int, name: str) -> tuple[NonZero | None, Sequence[int]]:
        tensor = checkpoint.tensors.get(f"layer.{layer}.{MATRICES[name]}.weight")
        if tensor is None:
            return None, ()
        stored = (tensor != 0).numpy()
        if name.startswith("FFN"):
            return stored, range(stored.shape[1 if name in _BY_COLUMNS else 0])
        return stored, _rows_of(checkpoint.heads[layer], structure)

    return _matrices(structure, find)


def matrices_of_graph(path: Path, structure: Structure) -> tuple[Matrix, ...]:
    """All matrices of an exported graph, with heads and units where the structure says they were."""
    import onnx
    from onnx.numpy_helper import to_array

    from densepack_export.graphs.onnx_names import TRANSPOSED

    weights = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}

    def find(layer: int, name: str) -> tuple[NonZero | None, Sequence[int]]:
        tensor = weights.get(f"layer.{layer}.{MATRICES[name]}.weight{TRANSPOSED}")
        if tensor is None:  # everything of this layer is gone
            return None, ()
        packed = to_array(tensor).T != 0
        places = _places(structure.layers[layer], structure, name)
        kept = np.arange(len(places))  # behind them are the zero units of --pad-to
        return packed.take(kept, axis=1 if name in _BY_COLUMNS else 0), places

    return _matrices(structure, find)


def _matrices(
    structure: Structure, find: Callable[[int, str], tuple[NonZero | None, Sequence[int]]]
) -> tuple[Matrix, ...]:
    return tuple(
        _matrix(structure, layer, name, *find(layer, name))
        for layer in range(structure.num_layers)
        for name in MATRICES
    )


def _matrix(structure: Structure, layer: int, name: str, stored: NonZero | None, places: Sequence[int]) -> Matrix:
    hidden = structure.hidden_size
    inner = (
        structure.intermediate_size if name.startswith("FFN") else structure.num_attention_heads * structure.head_size
    )
    full: NonZero = np.zeros((inner, hidden), dtype=bool)
    if stored is not None:
        full[list(places)] = stored.T if name in _BY_COLUMNS else stored
    return Matrix(
        layer=layer,
        name=name,
        nonzero=int(np.count_nonzero(full)),
        size=full.size,
        blocks=block_map(full.T if name in _BY_COLUMNS else full),
    )


def _places(layer: LayerStructure, structure: Structure, name: str) -> Sequence[int]:
    return layer.ffn_units if name.startswith("FFN") else _rows_of(layer.heads, structure)


def _rows_of(heads: Sequence[int], structure: Structure) -> list[int]:
    size = structure.head_size
    return [head * size + row for head in heads for row in range(size)]


def block_map(matrix: NDArray[Any], block: int = BLOCK) -> NonZero:
    """Which blocks of a matrix hold a non-zero entry; the last row and column of blocks may be cut off."""
    rows, columns = (-(-size // block) for size in matrix.shape)
    padded = np.zeros((rows * block, columns * block), dtype=bool)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix != 0
    return np.asarray(padded.reshape(rows, block, columns, block).any((1, 3)))
