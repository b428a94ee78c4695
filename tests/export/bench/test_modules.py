"""Sides that are exported from a module have what their backend needs beside the graph."""

from __future__ import annotations

from pathlib import Path

import pytest

import densepack_export.bench.modules as module
from densepack_export.bench.names import Kind
from densepack_runtime.sessions.int8_ranges import INT8_RANGES_NAME, Int8Ranges
from densepack_runtime.sessions.session import ComputePrecision
from densepack_runtime.structure import Structure
from tests.export.conftest import random_module


@pytest.mark.parametrize(("precision", "tiles"), [("int8", True), ("int8", False), ("bf16", True)])
def test_int8_has_its_ranges_where_the_processor_has_tiles(
    tiny_structure: Structure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: ComputePrecision,
    tiles: bool,
) -> None:
    monkeypatch.setattr(module, "has_tiles", lambda: tiles)
    module.exported(random_module(tiny_structure), Kind("openvino", precision), tmp_path)
    ranges = tmp_path / INT8_RANGES_NAME
    assert ranges.is_file() is (precision == "int8" and tiles)
    if ranges.is_file():
        Int8Ranges.read(ranges)
