"""From statistics to models: the order of removal of all projections, a plan for a budget, and the cut itself.

surgeon = Surgeon(structure, tensors, statistics)
plan = surgeon.plan(prices, limit)
packed = surgeon.cut(plan, config)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densepack_models.formats.tensors import HEAD_AXES, UNIT_AXES
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.pruning.second_order.budgets import UNITS_AT_ONCE, Prices
from densepack_models.pruning.second_order.levels import Levels, cheapest_levels
from densepack_models.pruning.second_order.removal import Removal, damped, refit, removal_order
from densepack_models.pruning.second_order.statistics import ProjectionStatistics
from densepack_models.weights import module_from_tensors
from densepack_runtime.errors import DensepackError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.structure import LayerStructure, Structure

ORDER = Document("an order of removal", DensepackError, "remove it, and it is worked out again")


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Places among the heads and FFN units of a layer that stay, ascending, and what the cuts cost: by how much the
    loss of a window is expected to grow.
    """

    heads: tuple[int, ...]
    units: tuple[int, ...]
    attention_loss: float
    ffn_loss: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays of every layer."""

    layers: tuple[LayerPlan, ...]

    @property
    def loss(self) -> float:
        """By how much the loss of a window is expected to grow."""
        return sum(layer.attention_loss + layer.ffn_loss for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"predicted_loss": self.loss}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What can go before one kind of output projection: groups of `size` inputs, `at_once` a level. `axes` are the
    tensors that they are in.
    """

    size: int
    at_once: int
    axes: Mapping[str, int]


class Surgeon:
    """Cuts one model to any size. `tensors` are the model's, under the packed module's names, at packed shapes.

    `whole` is the structure of the model before. The order of removal is worked out when it is made, on the device of
    the statistics, or read from the folder `kept`, where every projection's is written; `advance` is called after each.
    """

    def __init__(
        self,
        structure: Structure,
        tensors: Mapping[str, Tensor],
        statistics: Mapping[str, ProjectionStatistics],
        advance: Callable[[int], object] = lambda _: None,
        kept: Path | None = None,
    ) -> None:
        self.whole, self._tensors, self._statistics = structure, tensors, statistics
        self._kinds = {
            "attention": _Kind(structure.head_size, 1, HEAD_AXES),
            "ffn": _Kind(1, UNITS_AT_ONCE, UNIT_AXES),
        }
        self._removals: dict[str, Removal] = {}
        for name in statistics:
            self._removals[name] = self._removal(name) if kept is None else self._kept_removal(name, kept)
            advance(1)

    def plan(self, prices: Prices, limit: int) -> Plan:
        """What stays when at most `limit` may be spent on it, at these prices."""
        tables = {name: self._levels(name, prices) for name in self._removals}
        levels = cheapest_levels(list(tables.values()), max(0, limit - prices.fixed))
        chosen = dict(zip(tables, levels, strict=True))
        return Plan(tuple(self._layer_plan(index, chosen) for index in range(self.whole.num_layers)))

    def structure(self, plan: Plan) -> Structure:
        """That of what stays."""
        layers = zip(self.whole.layers, plan.layers, strict=True)
        return replace(self.whole, layers=tuple(_cut_layer(layer, stays) for layer, stays in layers))

    def uncut(self, config: Mapping[str, Any]) -> PackedBertForQuestionAnswering:
        """The packed module of the whole model, float32 on the CPU."""
        return _module(self.whole, config, dict(self._tensors))

    def cut(self, plan: Plan, config: Mapping[str, Any]) -> PackedBertForQuestionAnswering:
        """The packed module, float32 on the CPU, of what stays, with its output projections fitted again."""
        tensors = dict(self._tensors)
        for index, stays in enumerate(plan.layers):
            for part, groups in (("attention", stays.heads), ("ffn", stays.units)):
                if (name := f"layer.{index}.{part}.output") in self._removals:
                    tensors |= self._fitted(name, groups)
                    self._keep(tensors, index, self._kinds[part], groups)
        return _module(self.structure(plan), config, tensors)

    def _kept_removal(self, name: str, folder: Path) -> Removal:
        path = folder / f"{name}.json"
        if path.is_file():
            return ORDER.read(path, Removal)
        removal = self._removal(name)
        write_text_atomic(path, json.dumps(data_from_record(removal)) + "\n")
        return removal

    def _removal(self, name: str) -> Removal:
        known, kind = self._statistics[name], self._kind(name)
        return removal_order(
            self._weight(name), damped(known.covariance), known.curvature, size=kind.size, at_once=kind.at_once
        )

    def _kind(self, name: str) -> _Kind:
        return self._kinds[name.split(".")[2]]

    def _weight(self, name: str) -> Tensor:
        known = self._statistics[name]
        return self._tensors[f"{name}.weight"].to(known.mean.device, torch.float64)

    def _levels(self, name: str, prices: Prices) -> Levels:
        removal = self._removals[name]
        table = prices.heads if self._kind(name).axes is HEAD_AXES else prices.units
        return Levels(tuple(table[len(removal.order) - gone] for gone in removal.gone), removal.costs)

    def _layer_plan(self, index: int, chosen: Mapping[str, int]) -> LayerPlan:
        kept, loss = {}, {}
        for part in self._kinds:
            removal, level = self._removals.get(name := f"layer.{index}.{part}.output"), chosen.get(name, 0)
            kept[part] = tuple(removal.kept(level)) if removal else ()
            loss[part] = removal.costs[level] if removal else 0.0
        return LayerPlan(kept["attention"], kept["ffn"], loss["attention"], loss["ffn"])

    def _fitted(self, name: str, groups: tuple[int, ...]) -> dict[str, Tensor]:
        """The output projection for the groups that stay, at full width; the mean of what goes is in its bias."""
        known, weight, size = self._statistics[name], self._weight(name), self._kind(name).size
        if len(groups) * size == weight.shape[1]:
            return {}  # untouched weights keep their stored bits
        kept = torch.tensor([group * size + place for group in groups for place in range(size)], dtype=torch.long)
        fitted = torch.zeros_like(weight)
        fitted[:, kept] = refit(weight, damped(known.covariance), kept.to(weight.device))
        bias = self._tensors[f"{name}.bias"].to(weight) + (weight - fitted) @ known.mean
        return {f"{name}.weight": fitted.cpu(), f"{name}.bias": bias.cpu()}

    def _keep(self, tensors: dict[str, Tensor], index: int, kind: _Kind, groups: tuple[int, ...]) -> None:
        """Cut the rows and columns of the groups that go; the tensors of a block that lost everything are gone."""
        places = torch.tensor([group * kind.size + place for group in groups for place in range(kind.size)])
        for part, axis in kind.axes.items():
            name = f"layer.{index}.{part}"
            whole = tensors.pop(name)
            if groups:
                tensors[name] = whole.index_select(axis, places)


def _module(
    structure: Structure, config: Mapping[str, Any], tensors: dict[str, Tensor]
) -> PackedBertForQuestionAnswering:
    with torch.random.fork_rng(devices=[]):  # modules are born random, and a run must not depend on that
        return module_from_tensors(structure, config, tensors)


def _cut_layer(layer: LayerStructure, stays: LayerPlan) -> LayerStructure:
    """Zero units that padded an FFN have no position."""
    heads = tuple(layer.heads[place] for place in stays.heads)
    units = tuple(layer.ffn_units[place] for place in stays.units if place < len(layer.ffn_units))
    return replace(
        layer,
        heads=heads,
        ffn_units=units,
        ffn_width=len(stays.units),
        query_dead_heads=tuple(head for head in layer.query_dead_heads if head in heads),
    )
