"""Several bundles side by side: what is left, what it scores, how much faster it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from densepack_export.plots.speed import TradeOff, trade_off_plot
from densepack_export.report.facts import Benchmark, BundleFacts, ReportFacts
from densepack_export.report.speed import Picture
from densepack_export.report.tables import Cell, Row, Table

FLOP_LENGTH = 384

_Shape = tuple[int, int]  # batch, length


@dataclass(frozen=True, slots=True)
class SpeedUps:
    """How many times as fast every bundle is, in their order, and what that means."""

    values: tuple[float, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The overview of several bundles. Without two scores there is nothing to draw."""

    table: Table
    picture: Picture | None
    speed_up: str
    notes: list[str]


def compare(facts: ReportFacts) -> Comparison:
    """One row and one point a bundle."""
    speed_ups = _speed_ups(facts)
    points = [
        TradeOff(
            name=bundle.name,
            linear_density=bundle.structure.linear_density,
            heads=bundle.structure.heads_left,
            exact_match=rung.exact_match,
            f1=rung.f1,
            speed_up=value,
        )
        for bundle, value in zip(facts.bundles, speed_ups.values, strict=True)
        if (rung := bundle.packed_rung) is not None
    ]
    picture = Picture(trade_off_plot(points, speed_ups.meaning), "F1 against speed-up, a point for each bundle")
    return Comparison(
        _table(facts.bundles, speed_ups), picture if len(points) > 1 else None, speed_ups.meaning, _notes(facts.bundles)
    )


def _table(bundles: Sequence[BundleFacts], speed_ups: SpeedUps) -> Table:
    columns = (
        "bundle",
        "parameters",
        "linear weights left",
        "heads left",
        "EM",
        "F1",
        "questions",
        "speed-up",
        "parity",
    )
    rows: list[Row] = []
    for bundle, value in zip(bundles, speed_ups.values, strict=True):
        structure, rung = bundle.structure, bundle.packed_rung
        scores = (f"{rung.exact_match:.2f}", f"{rung.f1:.2f}", f"{rung.questions:,}") if rung else ("", "", "")
        rows.append(
            (
                Cell(bundle.name, note=bundle.manifest.model.name),
                f"{structure.parameters:,}",
                f"{100 * structure.linear_density:.1f} %",
                f"{structure.heads_left} of {structure.heads_total}",
                *scores,
                f"{value:.2f}",
                _verdict(bundle),
            )
        )
    return Table.of("All bundles", columns, rows, words=(len(columns) - 1,))


def _verdict(bundle: BundleFacts) -> Cell:
    if bundle.parity is None:
        return Cell("not checked", kind="open")
    return Cell("passed", kind="good") if bundle.parity.passed else Cell("failed", kind="bad")


def _notes(bundles: Sequence[BundleFacts]) -> list[str]:
    checked = [bundle for bundle in bundles if bundle.parity is not None and bundle.packed_rung is not None]
    measured_on = {(bundle.parity.squad_sha256, bundle.packed_rung.questions) for bundle in checked}  # type: ignore[union-attr]
    return ["EM and F1 are not of the same questions: they cannot be compared."] if len(measured_on) > 1 else []


def _speed_ups(facts: ReportFacts) -> SpeedUps:
    """Measured ones if every bundle has one on the same shape, else what the FLOPs allow."""
    measured = [_measured(bundle, facts.benchmarks) for bundle in facts.bundles]
    shapes = set.intersection(*(set(found) for found in measured))
    if shapes:
        batch, length = shape = max(shapes, key=lambda shape: (shape[0] * shape[1], shape))
        return SpeedUps(
            tuple(found[shape] for found in measured),
            f"times as fast as its own dense model, measured at {batch}x{length} in FP32",
        )
    costs = [(bundle.structure.dense().cost, bundle.structure.cost) for bundle in facts.bundles]
    return SpeedUps(
        tuple(dense.flops(FLOP_LENGTH) / packed.flops(FLOP_LENGTH) for dense, packed in costs),
        f"FLOPs of its own dense model over its FLOPs at {FLOP_LENGTH} tokens: a limit, not measured",
    )


def _measured(bundle: BundleFacts, benchmarks: Sequence[Benchmark]) -> dict[_Shape, float]:
    """The best ratio of an FP32 side of this bundle to a dense FP32 side of the same backend, by shape."""
    found: dict[_Shape, float] = {}
    for benchmark in benchmarks:
        sides = {side["name"]: side for side in benchmark.rows("sides")}
        for row in benchmark.rows("ratios"):
            if _is_of(bundle, row, sides):
                shape = (row["batch"], row["length"])
                found[shape] = max(row["median"], found.get(shape, 0.0))
    return found


def _is_of(bundle: BundleFacts, row: dict[str, Any], sides: dict[str, dict[str, Any]]) -> bool:
    base, side = sides[row["base"]], sides[row["side"]]
    source, _, variant = row["side"].partition("@")
    return (
        source == bundle.name
        and not variant.startswith("dense")
        and row["base"].partition("@")[2].startswith("dense")
        and side["precision"] == base["precision"] == "fp32"
        and side["backend"] == base["backend"]
    )
