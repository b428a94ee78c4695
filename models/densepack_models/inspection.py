"""What a checkpoint consists of: heads, FFN units and the density of every matrix, as `densepack inspect` prints it.

inspection = inspect(load_checkpoint("checkpoint/"))
inspection.layers[3].heads, inspection.structure.linear_density
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.packing import analyse
from densepack_runtime.structure import MATRICES, Structure


@dataclass(frozen=True, slots=True)
class LayerInspection:
    """One layer: surviving heads by id, FFN units left, and the density of each matrix.

    A density is the share of non-zero entries in the matrix at its *original* size, 0 to 1, before packing.
    """

    heads: tuple[int, ...]
    ffn_units: int
    densities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint as it is stored, and the structure that packing would give; `notes` say what reading it decided."""

    source: str
    parameters_stored: int
    structure: Structure
    layers: tuple[LayerInspection, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything, with the totals as numbers, for JSON."""
        structure = self.structure
        return {
            "source": self.source,
            "parameters_dense": structure.dense().parameters,
            "parameters_stored": self.parameters_stored,
            "parameters_packed": structure.parameters,
            "linear_weights": structure.linear_weights,
            "linear_weights_dense": structure.dense().linear_weights,
            "linear_density_percent": 100 * structure.linear_density,
            "overall_density_percent": 100 * structure.overall_density,
            "heads_removed": structure.heads_total - structure.heads_left,
            "heads_total": structure.heads_total,
            "head_ids": structure.head_ids,
            "ffn_positions": structure.ffn_positions,
            "layers": [asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
        }

    def columns(self) -> tuple[str, ...]:
        return ("layer", "heads left", "which", "FFN units", *MATRICES)

    def rows(self) -> list[tuple[str, ...]]:
        """One row a layer, as text; densities in percent."""
        return [
            (
                str(index),
                str(len(layer.heads)),
                " ".join(map(str, layer.heads)) or "–",
                str(layer.ffn_units),
                *(f"{100 * layer.densities[name]:.1f}" for name in MATRICES),
            )
            for index, layer in enumerate(self.layers)
        ]

    def totals(self) -> list[tuple[str, str]]:
        """Name and value of what concerns the whole model."""
        structure, dense = self.structure, self.structure.dense()
        removed = structure.heads_total - structure.heads_left
        mebibytes = 4 * self.parameters_stored / 2**20
        return [
            ("parameters, dense", f"{dense.parameters:,}"),
            ("parameters, as stored", f"{self.parameters_stored:,} ({mebibytes:.1f} MiB in FP32)"),
            ("parameters, packed", f"{structure.parameters:,}"),
            ("linear weights left", f"{structure.linear_weights:,} of {dense.linear_weights:,}"),
            ("linear density", f"{100 * structure.linear_density:.3f} %"),
            ("overall density", f"{100 * structure.overall_density:.3f} %"),
            ("heads removed", f"{removed} of {structure.heads_total}"),
            ("FLOPs, dense / packed, 384 tokens", f"{dense.cost.flops(384) / structure.cost.flops(384):.2f}"),
            ("head ids are", structure.head_ids),
            ("FFN positions are", structure.ffn_positions),
        ]


def inspect(checkpoint: Checkpoint) -> Inspection:
    """Analyse a checkpoint without building its module."""
    structure = analyse(checkpoint)
    layers = tuple(
        LayerInspection(
            heads=layer.heads,
            ffn_units=len(layer.ffn_units),
            densities=_densities(checkpoint.tensors, index, structure),
        )
        for index, layer in enumerate(structure.layers)
    )
    stored = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    return Inspection(checkpoint.source, stored, structure, layers, checkpoint.notes)


def _densities(tensors: dict[str, Tensor], index: int, structure: Structure) -> dict[str, float]:
    hidden = structure.hidden_size
    sizes = dict.fromkeys(("query", "key", "value", "output"), hidden * hidden)
    sizes |= dict.fromkeys(("FFN in", "FFN out"), hidden * structure.intermediate_size)
    found = {}
    for name, module in MATRICES.items():
        tensor = tensors.get(f"layer.{index}.{module}.weight")
        found[name] = 0.0 if tensor is None else int(tensor.count_nonzero()) / sizes[name]
    return found
