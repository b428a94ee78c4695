"""The pictures of a model card, as SVG: heads, densities, training curves, trade-off.

    heads_plot(inspection, Path("heads.svg"))
    density_plot(checkpoint, inspection, Path("density.svg"))     # hover a bar: name, density, the matrix in blocks

Hovering is CSS inside the SVG: it works where the file itself is opened, not where a page embeds it as an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from densepack_export.card.facts import TradeOff
from densepack_models.checkpoint import Checkpoint
from densepack_models.inspection import MATRICES, Inspection
from densepack_runtime.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLOCK = 32
# Told apart with any common colour blindness, and in grey (Okabe and Ito's set, as far as it is needed).
_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00")
_LEFT, _REMOVED, _FAINT = "#0072b2", "#d9d9d9", "#666666"
_SVG = "http://www.w3.org/2000/svg"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "densepack",  # the same picture is the same file
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
}


def heads_plot(inspection: Inspection, path: Path) -> None:
    """One stacked bar per layer: heads that survive, and heads that are gone."""
    layers = inspection.layers
    heads = [len(layer.heads) for layer in layers]
    total = inspection.structure.num_attention_heads
    with _figure(path, width=max(4.0, 0.55 * len(layers) + 1.6), height=2.8) as figure:
        axes = figure.subplots()
        places = range(len(layers))
        axes.bar(places, heads, color=_LEFT, label="left")
        axes.bar(places, [total - left for left in heads], bottom=heads, color=_REMOVED, label="removed")
        for place, left in zip(places, heads, strict=True):
            inside = {"color": "white", "va": "top", "xytext": (0, -3)} if left > 0.1 * total else {"xytext": (0, 2)}
            axes.annotate(str(left), (place, left), textcoords="offset points", ha="center", **inside)
        axes.set(xlabel="layer", ylabel="heads", xticks=list(places), ylim=(0, total * 1.02))
        removed = total * len(layers) - sum(heads)
        axes.set_title(f"{sum(heads)} heads left, {removed} of {total * len(layers)} removed", loc="left")
        _legend_beside(axes)


def density_plot(checkpoint: Checkpoint, inspection: Inspection, path: Path) -> None:
    """Per layer six bars, non-zero parameters of each matrix; hovering one shows the matrix in 32x32 blocks."""
    structure = inspection.structure
    bars = [
        _Bar.of(checkpoint, inspection, layer, place, name)
        for layer in range(structure.num_layers)
        for place, name in enumerate(MATRICES)
    ]
    with _figure(path, width=max(7.0, 1.1 * structure.num_layers + 1.8), height=5.2, hover=bars) as figure:
        axes, below = figure.subplots(2, height_ratios=(3, 2))
        figure.subplots_adjust(left=0.09, right=0.86, top=0.93, bottom=0.02, hspace=0.4)
        width = 0.9 / len(MATRICES)
        for bar in bars:
            offset = (bar.place - (len(MATRICES) - 1) / 2) * width
            [drawn] = axes.bar(
                bar.layer + offset,
                bar.nonzero,
                0.92 * width,
                color=_COLOURS[bar.place],
                label=bar.name if bar.layer == 0 else None,
            )
            drawn.set_gid(bar.id)
        axes.set(xlabel="layer", ylabel="non-zero weights", xticks=range(structure.num_layers))
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        left = 100 * structure.linear_density
        axes.set_title(f"{left:.1f} % of the linear weights are left after packing", loc="left")
        _legend_beside(axes)
        _draw_details(figure, below, bars, stored=structure.ffn_positions != "original")


def training_plot(rows: Sequence[dict[str, str]], path: Path) -> None:
    """The curves of a training log: losses, what is left, and scores where there are some."""
    with _figure(path, width=7.5, height=4.6) as figure:
        losses, density = figure.subplots(2, sharex=True)
        steps, starts = _steps(rows)
        for name, text, colour in (
            ("kd", "distillation", _COLOURS[0]),
            ("ce", "cross-entropy with the answers", _COLOURS[5]),
        ):
            losses.plot(steps, _column(rows, name), color=colour, label=text, linewidth=1)
        losses.set(ylabel="loss")
        _legend_beside(losses)
        density.plot(steps, 100 * _column(rows, "density"), color=_COLOURS[0], label="linear density, %")
        density.plot(steps, _column(rows, "heads"), color=_COLOURS[2], label="heads left")
        scores = _column(rows, "f1")
        if np.isfinite(scores).any():
            density.plot(steps, scores, "o", color=_COLOURS[5], markersize=4, label="F1, %")
        density.set(xlabel="step", ylim=(0, None))
        _legend_beside(density)
        for start, name in starts:
            for axes in (losses, density):
                axes.axvline(start, color=_FAINT, linewidth=0.6, linestyle=":")
            losses.annotate(
                name, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points"
            )


def trade_off_plot(points: Sequence[TradeOff], path: Path) -> None:
    """F1 against speed-up where it was measured, else against density."""
    fast = all(point.speed_up is not None for point in points)
    with _figure(path, width=5.5, height=3.4) as figure:
        axes = figure.subplots()
        across = [point.speed_up or 0 if fast else 100 * point.linear_density for point in points]
        axes.plot(across, [point.f1 for point in points], "o", color=_LEFT)
        for place, point in zip(across, points, strict=True):
            text = f"{point.name}\n{100 * point.linear_density:.0f} %, {point.heads} heads"
            axes.annotate(text, (place, point.f1), xytext=(6, -4), textcoords="offset points", fontsize=8)
        axes.margins(0.2)
        axes.set(xlabel="times as fast as dense" if fast else "linear weights left, %", ylabel="F1, %")


# --- the density plot's bars ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bar:
    """One matrix. `blocks` bool [rows, columns], True where a 32x32 block has a non-zero entry."""

    layer: int
    place: int
    name: str
    nonzero: int
    density: float
    blocks: NDArray[np.bool_]

    @property
    def id(self) -> str:
        return f"bar-{self.layer}-{self.place}"

    @property
    def detail_id(self) -> str:
        return f"detail-{self.layer}-{self.place}"

    @classmethod
    def of(cls, checkpoint: Checkpoint, inspection: Inspection, layer: int, place: int, name: str) -> _Bar:
        tensor = checkpoint.tensors.get(f"bert.encoder.layer.{layer}.{MATRICES[name]}")
        values = np.zeros((0, 0)) if tensor is None else tensor.float().numpy()
        if not name.startswith("FFN"):
            values = _at_original_places(values, checkpoint.heads[layer], inspection, across=name == "output")
        return cls(
            layer,
            place,
            name,
            int(np.count_nonzero(values)),
            inspection.layers[layer].densities[name],
            block_map(values),
        )


def _at_original_places(
    values: NDArray[Any], heads: Sequence[int], inspection: Inspection, *, across: bool
) -> NDArray[Any]:
    """An attention matrix at full size: the rows (`across`: columns) of the heads that are stored where they were."""
    structure = inspection.structure
    full = np.zeros((structure.num_attention_heads, structure.head_size, structure.hidden_size))
    if heads and values.size:
        rows = values.T if across else values
        full[list(heads)] = rows.reshape(len(heads), structure.head_size, -1)
    square = full.reshape(-1, structure.hidden_size)
    return square.T if across else square


def block_map(matrix: NDArray[Any], block: int = BLOCK) -> NDArray[np.bool_]:
    """Which blocks of a matrix hold a non-zero entry; the last row and column of blocks may be cut off."""
    rows, columns = (-(-size // block) for size in matrix.shape)
    padded = np.zeros((rows * block, columns * block), dtype=bool)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix != 0
    return np.asarray(padded.reshape(rows, block, columns, block).any((1, 3)))


def _draw_details(figure: Figure, axes: Axes, bars: Sequence[_Bar], *, stored: bool) -> None:
    """Below the bars, one picture per matrix, all in the same place; the style sheet shows the one that is hovered."""
    axes.set_axis_off()
    position = axes.get_position()
    hint = axes.text(0, 0.5, "open the picture itself and hover a bar to see its matrix", color=_FAINT)
    hint.set_gid("hint")
    for bar in bars:
        inset = figure.add_axes((position.x0, position.y0, position.width, position.height))
        inset.set_gid(bar.detail_id)
        inset.set_axis_off()
        note = ", FFN units as they are stored" if stored and bar.name.startswith("FFN") else ""
        text = (
            f"layer {bar.layer}, {bar.name}: {bar.nonzero:,} weights, {100 * bar.density:.1f} % of the original{note}"
        )
        inset.set_title(text, loc="left", fontsize=9)
        if bar.blocks.size:
            # Wide rather than high, so that every matrix fits the same place.
            blocks = bar.blocks.T if bar.blocks.shape[0] > bar.blocks.shape[1] else bar.blocks
            inset.pcolorfast(np.where(blocks, 0.25, 0.9), cmap="gray", vmin=0, vmax=1)
            inset.set_aspect("equal", anchor="W")
            inset.invert_yaxis()  # the first row on top, as matrices are written


# --- figures and files ------------------------------------------------------------------------------------------------


@contextmanager
def _figure(path: Path, *, width: float, height: float, hover: Sequence[_Bar] = ()) -> Iterator[Figure]:
    """A figure of so many inches that is written as SVG in the end."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout=None if hover else "constrained")
        yield figure
        with new_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
            if hover:
                _make_hoverable(temporary, hover)


def _make_hoverable(path: Path, bars: Sequence[_Bar]) -> None:
    """Give the SVG a style sheet that shows a bar's detail while the pointer is over it, and a title for each bar."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    tree = ElementTree.parse(path)
    root = tree.getroot()
    found = {element.get("id"): element for element in root.iter()}
    rules = [", ".join(f"#{bar.detail_id}" for bar in bars) + " { visibility: hidden; pointer-events: none }"]
    rules += ["svg:has([id^='bar-']:hover) #hint { visibility: hidden }", "[id^='bar-']:hover { opacity: 0.7 }"]
    for bar in bars:
        rules.append(f"svg:has(#{bar.id}:hover) #{bar.detail_id} {{ visibility: visible }}")
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = f"layer {bar.layer}, {bar.name}: {100 * bar.density:.1f} %"
        found[bar.id].insert(0, title)
    style = ElementTree.Element(f"{{{_SVG}}}style")
    style.text = "\n".join(rules)
    root.insert(0, style)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _column(rows: Sequence[dict[str, str]], name: str) -> NDArray[np.float64]:
    """A column of the log as numbers, NaN where it is empty."""
    return np.array([float(row[name]) if row.get(name) else np.nan for row in rows])


def _steps(rows: Sequence[dict[str, str]]) -> tuple[list[int], list[tuple[int, str]]]:
    """Steps counted through all stages, and where each stage begins."""
    steps: list[int] = []
    starts: list[tuple[int, str]] = []
    stage, done = None, 0
    for row in rows:
        if row.get("stage") != stage:
            stage = row.get("stage")
            done = steps[-1] if steps else 0
            starts.append((done, stage or ""))
        steps.append(done + int(row["step"]))
    return steps, starts
