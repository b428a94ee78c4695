"""What packing removed, folded and kept, for a person and as JSON.

report = report_packing(checkpoint, packed.structure)
report.rows(), report.totals(), report.as_dict()
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from densepack_models.formats.checkpoint import Checkpoint
from densepack_runtime.structure import Structure


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What packing did to one layer. Heads by id; `folded_heads` are among the removed, `query_dead` among the kept."""

    heads_kept: tuple[int, ...]
    heads_removed: tuple[int, ...]
    folded_heads: tuple[int, ...]
    query_dead_heads: tuple[int, ...]
    units_stored: int
    units_kept: int
    units_folded: int
    ffn_width: int


@dataclass(frozen=True, slots=True)
class PackReport:
    """What packing did. `heads_removed` of a layer counts those that the checkpoint had cut already."""

    source: str
    parameters_dense: int
    parameters_stored: int
    parameters: int
    layers: tuple[LayerReport, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def columns(self) -> tuple[str, ...]:
        return (
            "layer",
            "heads left",
            "removed",
            "folded",
            "query-dead, kept",
            "units left",
            "of",
            "folded",
            "FFN width",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """One row a layer, as text."""
        return [
            (
                str(index),
                str(len(layer.heads_kept)),
                str(len(layer.heads_removed)),
                _ids(layer.folded_heads),
                _ids(layer.query_dead_heads),
                str(layer.units_kept),
                str(layer.units_stored),
                str(layer.units_folded),
                str(layer.ffn_width),
            )
            for index, layer in enumerate(self.layers)
        ]

    def totals(self) -> list[tuple[str, str]]:
        """Name and value of what concerns the whole model; says why query-dead heads stay."""
        dead = sum(len(layer.query_dead_heads) for layer in self.layers)
        rows = [
            ("parameters, dense", f"{self.parameters_dense:,}"),
            ("parameters, as stored", f"{self.parameters_stored:,}"),
            ("parameters, packed", f"{self.parameters:,}"),
        ]
        if dead:
            rows.append(("query-dead heads kept", f"{dead}: zero queries or keys, but they still average their values"))
        return rows


def _ids(heads: tuple[int, ...]) -> str:
    return " ".join(map(str, heads)) or "–"


def report_packing(checkpoint: Checkpoint, structure: Structure) -> PackReport:
    """What was done to a checkpoint of which `structure` is left."""
    everything = range(structure.num_attention_heads)
    layers = tuple(
        LayerReport(
            heads_kept=layer.heads,
            heads_removed=tuple(head for head in everything if head not in layer.heads),
            folded_heads=layer.folded_heads,
            query_dead_heads=layer.query_dead_heads,
            units_stored=_units_stored(checkpoint, index),
            units_kept=len(layer.ffn_units),
            units_folded=layer.folded_units,
            ffn_width=layer.ffn_width,
        )
        for index, layer in enumerate(structure.layers)
    )
    return PackReport(
        source=checkpoint.source,
        parameters_dense=structure.dense().parameters,
        parameters_stored=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        parameters=structure.parameters,
        layers=layers,
    )


def _units_stored(checkpoint: Checkpoint, index: int) -> int:
    bias = checkpoint.tensors.get(f"layer.{index}.ffn.intermediate.bias")
    return 0 if bias is None else len(bias)
