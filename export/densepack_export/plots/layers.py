"""What is left, layer by layer: heads, and the density of every matrix with its picture on hover.

heads_plot(structure)
density_plot(structure, matrices)      # point at a bar: name, weights, the matrix in blocks; a click keeps it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from matplotlib.ticker import EngFormatter

from densepack_export.plots.drawing import (
    FAINT,
    GRID,
    LEFT,
    OVER,
    REMOVED,
    SERIES,
    SVG,
    legend_beside,
    new_figure,
    svg_text,
    svg_tree,
)
from densepack_export.plots.matrices import Matrix, NonZero
from densepack_runtime.structure import MATRICES, Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

# The density plot in CSS pixels: what is around the bars, and the room for the pictures below them.
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP = 70, 100, 36
_BARS_HEIGHT, _BETWEEN, _DETAIL_HEIGHT = 230, 60, 200
_CAPTION_HEIGHT, _LARGEST_CELL = 24, 14


def heads_plot(structure: Structure) -> str:
    """One stacked bar per layer: heads that survive, and heads that are gone."""
    heads = [len(layer.heads) for layer in structure.layers]
    total = structure.num_attention_heads
    with new_figure(max(400, 44 * len(heads) + 160), 240) as figure:
        axes = figure.subplots()
        places = range(len(heads))
        axes.bar(places, heads, color=LEFT, label="left")
        axes.bar(places, [total - left for left in heads], bottom=heads, color=REMOVED, label="removed")
        for place, left in zip(places, heads, strict=True):
            inside = {"color": OVER, "va": "top", "xytext": (0, -3)} if left > 0.12 * total else {"xytext": (0, 2)}
            axes.annotate(str(left), (place, left), textcoords="offset points", ha="center", **inside)
        axes.set(xlabel="layer", ylabel="heads", xticks=list(places), ylim=(0, total * 1.02))
        removed = structure.heads_total - sum(heads)
        axes.set_title(f"{sum(heads)} heads left, {removed} of {structure.heads_total} removed", loc="left")
        legend_beside(axes)
        return svg_text(svg_tree(figure))


def density_plot(structure: Structure, matrices: Sequence[Matrix], hint: str) -> str:
    """Per layer six bars, non-zero weights of each matrix; pointing at one shows the matrix in 32x32 blocks.

    `hint` is what stands in the place of the pictures until then.
    """
    width = max(960, 72 * structure.num_layers + _MARGIN_LEFT + _MARGIN_RIGHT)
    height = _MARGIN_TOP + _BARS_HEIGHT + _BETWEEN + _DETAIL_HEIGHT
    with new_figure(width, height, layout=None) as figure:
        axes = figure.add_axes(
            (
                _MARGIN_LEFT / width,
                1 - (_MARGIN_TOP + _BARS_HEIGHT) / height,
                1 - (_MARGIN_LEFT + _MARGIN_RIGHT) / width,
                _BARS_HEIGHT / height,
            )
        )
        targets = [_draw_bar(axes, matrix) for matrix in matrices]
        axes.set(xlabel="layer", ylabel="non-zero weights", xticks=range(structure.num_layers))
        axes.margins(x=0.01)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_title(
            f"{100 * structure.linear_density:.1f} % of the linear weights are left after packing", loc="left"
        )
        legend_beside(axes)
        root = svg_tree(figure)
        edges = [(target.get_x(), target.get_x() + target.get_width()) for bars in targets for target in bars]
        columns = [tuple(axes.transData.transform((x, 0))[0] for x in edge) for edge in edges]
    room = _Room(_MARGIN_LEFT, height - _DETAIL_HEIGHT, width - _MARGIN_LEFT - 10, _DETAIL_HEIGHT)
    _add_hover(root, matrices, columns, room, hint, stored=structure.ffn_positions != "original")
    return svg_text(root)


def _draw_bar(axes: Axes, matrix: Matrix) -> BarContainer:
    place = list(MATRICES).index(matrix.name)
    width = 0.9 / len(MATRICES)
    offset = (place - (len(MATRICES) - 1) / 2) * width
    label = matrix.name if matrix.layer == 0 else None
    drawn = axes.bar(matrix.layer + offset, matrix.nonzero, 0.92 * width, color=SERIES[place], label=label)
    drawn[0].set_gid(_id_of(matrix))
    return drawn


# --- hovering ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Room:
    """A rectangle of the picture, in its units, y downwards."""

    x: float
    y: float
    width: float
    height: float


def _id_of(matrix: Matrix) -> str:
    return f"plot-{matrix.layer}-{list(MATRICES).index(matrix.name)}"


def _add_hover(
    root: Element,
    matrices: Sequence[Matrix],
    columns: Sequence[tuple[float, ...]],
    room: _Room,
    hint: str,
    *,
    stored: bool,
) -> None:
    """Make every bar a target as high as the plot, and put the picture of its matrix below, hidden until then."""
    found = {element.get("id"): element for element in root.iter()}
    style = Element(f"{SVG}style")
    style.text = _hover_rules([_id_of(matrix).removeprefix("plot-") for matrix in matrices])
    root.insert(0, style)
    root.append(_hint(hint, room))
    for matrix, (left, right) in zip(matrices, columns, strict=True):
        bar = found[_id_of(matrix)]
        key = bar.attrib.pop("id").removeprefix("plot-")
        bar.attrib.update({"class": "matrix-bar", "data-matrix": key, "tabindex": "0", "role": "img"})
        title = Element(f"{SVG}title")
        title.text = f"layer {matrix.layer}, {matrix.name}: {100 * matrix.density:.1f} %"
        bar.insert(0, title)
        area = {"x": f"{left:.2f}", "y": str(_MARGIN_TOP), "width": f"{right - left:.2f}", "height": str(_BARS_HEIGHT)}
        SubElement(bar, f"{SVG}rect", {**area, "fill": "none", "pointer-events": "all"})
        root.append(_detail(matrix, key, room, stored=stored))


def _hint(text: str, room: _Room) -> Element:
    """A frame in the place of the pictures, with what to do."""
    group = Element(f"{SVG}g", {"class": "matrix-hint"})
    area = {"x": f"{room.x:g}", "y": f"{room.y + 1:g}", "width": f"{room.width:g}", "height": f"{room.height - 2:g}"}
    SubElement(group, f"{SVG}rect", {**area, "rx": "4", "fill": "none", "stroke": GRID, "stroke-dasharray": "4"})
    _text(group, text, room.x + 16, room.y + room.height / 2 + 4, FAINT)
    return group


def _hover_rules(keys: Sequence[str]) -> str:
    """A style sheet: the picture of the bar that is pointed at, else of the one that was clicked or tabbed to."""
    rules = [
        ".matrix-detail { visibility: hidden; pointer-events: none }",
        ".matrix-bar { cursor: pointer; outline: none }",
        ".matrix-bar:hover, .matrix-bar:focus { opacity: 0.65 }",
        "svg:has(.matrix-bar:hover, .matrix-bar:focus) .matrix-hint { visibility: hidden }",
    ]
    for key in keys:
        bar, detail = f'.matrix-bar[data-matrix="{key}"]', f'.matrix-detail[data-matrix="{key}"]'
        rules.append(
            f"svg:has({bar}:hover) {detail}, svg:not(:has(.matrix-bar:hover)):has({bar}:focus) {detail} "
            "{ visibility: visible }"
        )
    return "\n".join(rules)


def _detail(matrix: Matrix, key: str, room: _Room, *, stored: bool) -> Element:
    """The caption and the picture of a matrix: blocks with weights in its colour on the grey of what was removed."""
    group = Element(f"{SVG}g", {"class": "matrix-detail", "data-matrix": key})
    units = "FFN units, as they are stored," if stored else "FFN units"
    across = f"{units} from left to right" if matrix.name.startswith("FFN") else _direction(matrix.name)
    share = f"{matrix.nonzero:,} weights, {100 * matrix.density:.1f} % of the original"
    _text(group, f"layer {matrix.layer}, {matrix.name}: {share}; {across}", room.x, room.y + 12)
    # Units from left to right in both FFN matrices: wide rather than high, so that every matrix fits the same place.
    blocks = matrix.blocks.T if matrix.name == "FFN in" else matrix.blocks
    rows, columns = blocks.shape
    cell = min(_LARGEST_CELL, room.width / columns, (room.height - _CAPTION_HEIGHT) / rows)
    size = {"width": str(columns), "height": str(rows)}
    place = f"translate({room.x:g} {room.y + _CAPTION_HEIGHT:g}) scale({cell:.3f})"
    picture = SubElement(group, f"{SVG}g", {"transform": place, "shape-rendering": "crispEdges"})
    SubElement(picture, f"{SVG}rect", {**size, "fill": REMOVED})
    SubElement(picture, f"{SVG}path", {"d": _runs(blocks), "fill": SERIES[list(MATRICES).index(matrix.name)]})
    return group


def _direction(name: str) -> str:
    return "heads from left to right" if name == "output" else "heads from top to bottom"


def _runs(blocks: NonZero) -> str:
    """Runs of True in every row as the data of an SVG path, a block one unit."""
    parts = []
    for y, row in enumerate(blocks):
        edges = [x for x in range(len(row) + 1) if (x < len(row) and row[x]) != (x > 0 and row[x - 1])]
        parts += [
            f"M{left} {y}h{right - left}v1h{left - right}z" for left, right in zip(edges[::2], edges[1::2], strict=True)
        ]
    return "".join(parts)


def _text(parent: Element, text: str, x: float, y: float, colour: str | None = None) -> Element:
    style = "font-size: 12px" + (f"; fill: {colour}" if colour else "")
    element = SubElement(parent, f"{SVG}text", {"x": f"{x:g}", "y": f"{y:g}", "style": style})
    element.text = text
    return element
