"""Pictures fit into a page: matrices are where they were, ids do not clash, and nothing leaks out of an SVG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from densepack_export.plots.drawing import inlined, settled
from densepack_export.plots.layers import density_plot, heads_plot
from densepack_export.plots.matrices import Matrix, matrices_of_checkpoint, matrices_of_graph
from densepack_export.plots.speed import Growth, Timing, TradeOff, growth_plot, latency_plot, trade_off_plot
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import analyse
from densepack_runtime.structure import Structure

TIMINGS = [Timing(side, 8, length, length / 4, length / 5, length / 3) for side in "ab" for length in (128, 384)]
GROWTH = [Growth("a", axis, value, value / 9, None) for axis in ("questions", "threads") for value in (1, 2, 100)]
TRADE_OFFS = [TradeOff(f"cost$ {place}$ <b>", 0.3, 20, 70.0, 80.0 + place, 2.0 + place) for place in range(2)]


def test_a_graph_shows_what_its_checkpoint_shows(default_checkpoint: Path, default_bundle: Path) -> None:
    checkpoint = load_checkpoint(default_checkpoint)
    structure = analyse(checkpoint)
    stored = matrices_of_checkpoint(checkpoint, structure)
    packed = matrices_of_graph(default_bundle / "model.onnx", structure)
    assert len(packed) == 6 * structure.num_layers
    for left, right in zip(stored, packed, strict=True):
        assert (left.name, left.nonzero, left.size) == (right.name, right.nonzero, right.size)
        np.testing.assert_array_equal(left.blocks, right.blocks, err_msg=f"layer {left.layer}, {left.name}")
    zero_by_chance = structure.linear_weights - sum(matrix.nonzero for matrix in packed)
    assert 0 <= zero_by_chance < 10


def test_heads_and_units_are_where_they_were(tiny_structure: Structure, tmp_path: Path) -> None:
    """A graph with the weights of layer 0 alone: two heads, 17 units, and 7 that --pad-to put behind them."""
    widths = {"attention.query": 16, "attention.output": -16, "ffn.intermediate": 24, "ffn.output": -24}
    weights = [
        numpy_helper.from_array(
            np.ones((32, width) if width > 0 else (-width, 32), np.float32), f"layer.0.{name}.weight.transposed"
        )
        for name, width in widths.items()
    ]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], weights)), tmp_path / "m.onnx")
    found = matrices_of_graph(tmp_path / "m.onnx", tiny_structure)
    matrices = {(matrix.layer, matrix.name): matrix for matrix in found}
    assert matrices[0, "query"].density == matrices[0, "output"].density == 2 / 4
    assert matrices[0, "FFN in"].nonzero == matrices[0, "FFN out"].nonzero == 17 * 32
    assert matrices[0, "FFN in"].blocks.tolist() == [[True], [False]]  # units 0 to 16 of 48, in blocks of 32
    assert matrices[0, "FFN out"].blocks.tolist() == [[True, False]]
    assert matrices[1, "value"].nonzero == matrices[2, "FFN out"].nonzero == 0, "a layer that lost everything"


def test_the_picture_of_a_matrix(tiny_structure: Structure) -> None:
    blocks = np.array([[True, True, False], [False, True, False]])
    matrices = [Matrix(0, "output", 5, 10, blocks)]
    root = ElementTree.fromstring(density_plot(tiny_structure, matrices, "hint"))
    [detail] = [element for element in root.iter() if element.get("class") == "matrix-detail"]
    [path] = [element.get("d") for element in detail.iter() if element.get("d")]
    assert path == "M0 0h2v1h-2zM1 1h1v1h-1z"
    assert "layer 0, output: 5 weights, 50.0 % of the original" in "".join(detail.itertext())


@pytest.mark.parametrize(
    "svg",
    [latency_plot(TIMINGS), growth_plot(GROWTH), trade_off_plot(TRADE_OFFS, "x")],
    ids=["latency", "growth", "trade-off"],
)
def test_a_picture_fits_into_a_page(svg: str) -> None:
    page = inlined(svg, "first", "a picture") + inlined(svg, "second", "a picture")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "ids clash"
    targets = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    assert {left or right for left, right in targets} <= set(ids)
    assert "<style" not in page, "a style sheet would hold for the whole page"
    outside = re.sub(r"var\(--plot-\w+, #[0-9a-f]{6}\)", "", page)
    assert not re.findall(r"#[0-9a-f]{6}\b", outside), "a colour that a dark page cannot change"


def test_names_are_not_formulas() -> None:
    texts = "".join(ElementTree.fromstring(trade_off_plot(TRADE_OFFS)).itertext())
    assert "cost$ 0$ <b>" in texts


def test_heads_are_counted(tiny_structure: Structure) -> None:
    assert "5 heads left, 7 of 12 removed" in "".join(ElementTree.fromstring(heads_plot(tiny_structure)).itertext())


def test_a_picture_is_the_same_text_on_every_processor() -> None:
    """Two processors, one picture: the last digit of a place differs, and the hash that is made of it."""
    here = '<clipPath id="p57ea486687"><path d="M 48.906178 7.5" /></clipPath><g clip-path="url(#p57ea486687)" />'
    there = here.replace("48.906178", "48.906177").replace("p57ea486687", "pcb622405ef")
    assert settled(here) == settled(there)
    assert settled(here).count("part-1") == 2
    assert "M 48.91 7.5" in settled(here)
    other = settled(here + there)
    assert other.count("part-1") == other.count("part-2") == 2
