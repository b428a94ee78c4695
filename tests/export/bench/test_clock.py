"""What a layer takes in a session, from planted times, and cuts that have the speed that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from densepack_export.bench import clock as clock_module
from densepack_export.bench.clock import SessionClock, kind_of
from densepack_models.packing import pack
from densepack_models.pruning.options import ShrinkOptions
from densepack_models.pruning.second_order.budgets import Goal
from densepack_models.pruning.second_order.recipe import shrink
from densepack_runtime.benchmark.sides import Cell, Side
from densepack_runtime.errors import InputError
from densepack_runtime.sessions.fake_session import FakeSession
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.structure import Structure
from tests.models.pruning.tiny_task import LONGEST, tiny_data, tiny_start

CELL = Cell(4, LONGEST)
OPTIONS = ShrinkOptions(token_budget=256, max_length=LONGEST, doc_stride=8, device="cpu")
# A whole model takes this much longer than its layers tell: what a real session does, too, and the plan has to mend.
SLOWER = 1.25
MS_A_FLOP = 1e-6


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times that follow the FLOPs, in place of measured ones; how many models each measurement had."""
    measured: list[int] = []

    def times(sides: Sequence[Side], cells: Sequence[Cell], *_: object, **__: object) -> dict[str, Any]:
        measured.append(len(sides))
        found = [MS_A_FLOP * side.cost.flops(cells[0].length) for side in sides]
        if len(sides) == 2:
            found[1] *= SLOWER
        return {"latency": [{"median_ms": time} for time in found], "ratios": [{"median": found[0] / found[1]}]}

    monkeypatch.setattr(clock_module, "measure_latency", times)
    monkeypatch.setattr(clock_module, "exported", lambda *_: lambda _: FakeSession())
    return measured


def clock_in(folder: Path) -> SessionClock:
    return SessionClock(kind_of("onnxruntime", None), CELL, SessionOptions(threads=1), folder)


def structure_of(**changes: Any) -> Structure:
    return pack(tiny_start(**changes)).structure


def test_layers_are_timed_once_and_nothing_costs_nothing(timed: list[int], tmp_path: Path) -> None:
    structure = structure_of(intermediate_size=256)
    prices = clock_in(tmp_path).prices(structure)
    assert (prices.heads[0], prices.units[0]) == (0, 0)
    assert prices.spent_on(structure) == pytest.approx(1e6 * MS_A_FLOP * structure.cost.flops(LONGEST), rel=1e-6)
    assert timed == [1 + 4 + 8 + 1]  # nothing, up to all heads, eight widths, and the rest of the whole model
    assert clock_in(tmp_path).prices(structure) == prices
    assert len(timed) == 1
    clock_in(tmp_path).prices(structure_of(intermediate_size=128))
    assert len(timed) == 2


@pytest.mark.parametrize(("quantity", "value"), [("speedup", 2.0), ("latency", 1.0)])
def test_a_cut_has_the_speed_that_was_asked_for(timed: list[int], tmp_path: Path, quantity: Any, value: float) -> None:
    start = tiny_start(intermediate_size=256)
    goal = Goal(quantity, value, clock=clock_in(tmp_path / "kept"))
    if quantity == "latency":
        goal = Goal("latency", MS_A_FLOP * pack(start).structure.cost.flops(LONGEST) / 2, clock=goal.clock)
    [result] = shrink(start, {tmp_path / "out": goal}, tiny_data(tmp_path), OPTIONS)
    assert result.timing is not None
    assert 2 <= result.timing.speedup < 2.15
    structure = pack(start).structure.dense().cost.flops(LONGEST)
    assert result.timing.dense_ms == pytest.approx(MS_A_FLOP * structure)
    before = len(timed)
    [again] = shrink(start, {tmp_path / "again": goal}, tiny_data(tmp_path), OPTIONS)
    assert (again.plan, again.timing) == (result.plan, result.timing)
    assert len(timed) == before


def test_windows_that_the_positions_do_not_hold_are_not_timed(timed: list[int], tmp_path: Path) -> None:
    """Positions that are counted begin behind the padding's, so that fewer are left."""
    structure = replace(structure_of(), max_position_embeddings=LONGEST + 1, position_pad_id=1)
    with pytest.raises(InputError, match=f"lower --length to {LONGEST - 1}"):
        clock_in(tmp_path).prices(structure)
    clock_in(tmp_path).prices(replace(structure, position_pad_id=0))
    assert len(timed) == 1


@pytest.mark.usefixtures("timed")
def test_a_speed_out_of_reach_is_refused_with_what_can_be(tmp_path: Path) -> None:
    goal = Goal("speedup", 500.0, clock=clock_in(tmp_path / "kept"))
    with pytest.raises(
        InputError, match=r"^500 times the speed cannot be reached: the model has 1 times the speed, and"
    ):
        shrink(tiny_start(), {tmp_path / "out": goal}, tiny_data(tmp_path), OPTIONS)
    goal = Goal("latency", 1e3, clock=clock_in(tmp_path / "kept"))
    with pytest.raises(InputError, match=r"^1e\+03 ms cannot be reached: the model has"):
        shrink(tiny_start(), {tmp_path / "out": goal}, tiny_data(tmp_path), OPTIONS)
