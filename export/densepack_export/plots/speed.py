"""Speed: latency by length, growth with the workload, and F1 against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, NullFormatter

from densepack_export.plots.drawing import GRID, REMOVED, SERIES, legend_beside, new_figure, svg_text, svg_tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP"


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One density of the trade-off: what is left, what it scores on so many questions, and how many times as fast it
    is.
    """

    name: str
    linear_density: float
    heads: int
    exact_match: float
    f1: float
    speed_up: float | None
    questions: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one side for a batch of windows of so many tokens: median and extremes over the rounds."""

    side: str
    batch: int
    length: int
    median_ms: float
    min_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Seconds and peak memory of one side at one place of an axis (questions, words of a context, threads)."""

    side: str
    axis: str
    value: int
    seconds: float
    peak_mib: float | None


def ratio_plot(ratios: Mapping[str, Mapping[str, float]], ours: str, axis: str) -> str:
    """Bars of ratios, by what was measured and the host that it was measured on: one colour a host, and the names that
    begin with `ours` stand out. The order is that of the first host that has a ratio, the slowest first.
    """
    hosts = list(dict.fromkeys(host for found in ratios.values() for host in found))
    ordered = sorted(ratios, key=lambda name: next(iter(ratios[name].values())))
    thick = 0.8 / len(hosts)
    with new_figure(720, 20 * len(hosts) * len(ordered) + 80) as figure:
        axes = figure.subplots()
        for place, host in enumerate(hosts):
            rows = [(row, name, ratios[name][host]) for row, name in enumerate(ordered) if host in ratios[name]]
            bars = axes.barh(
                [row + 0.4 - (place + 0.5) * thick for row, _, _ in rows],
                [ratio for _, _, ratio in rows],
                color=[SERIES[place] if name.startswith(ours) else (REMOVED, GRID)[place] for _, name, _ in rows],
                height=0.92 * thick,
            )
            axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set(xlabel=axis, yticks=range(len(ordered)), yticklabels=ordered)
        axes.margins(x=0.08)
        axes.grid(visible=False)
        handles = [Patch(color=SERIES[place], label=host) for place, host in enumerate(hosts)]
        axes.legend(handles=handles, loc="lower right", frameon=False)
        return svg_text(svg_tree(figure))


def trade_off_plot(points: Sequence[TradeOff], speed: str = "times as fast as dense") -> str:
    """F1 against speed-up where all have one, else against density. `speed` says what the speed-up is."""
    fast = all(point.speed_up is not None for point in points)
    with new_figure(720, 340) as figure:
        axes = figure.subplots()
        for place, point in enumerate(points):  # named beside the plot: points lie too close for names of their own
            across = point.speed_up or 0 if fast else 100 * point.linear_density
            label = f"{point.name}: {100 * point.linear_density:.0f} %, {point.heads} heads"
            axes.plot([across], [point.f1], label=label, **_look(place) | {"linestyle": "none", "markersize": 7})
        axes.margins(0.1)
        axes.set(xlabel=speed if fast else "linear weights left, %", ylabel="F1, %")
        legend_beside(axes)
        return svg_text(svg_tree(figure))


def latency_plot(timings: Sequence[Timing]) -> str:
    """A panel per batch size: milliseconds over the length of the windows, a line for each side."""
    batches = sorted({timing.batch for timing in timings})
    sides = list(dict.fromkeys(timing.side for timing in timings))
    with new_figure(max(560, 330 * len(batches) + 200), 290) as figure:
        panels = figure.subplots(1, len(batches), squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            for place, side in enumerate(sides):
                found = sorted(
                    (timing for timing in timings if (timing.batch, timing.side) == (batch, side)),
                    key=lambda timing: timing.length,
                )
                middle = [timing.median_ms for timing in found]
                below = [timing.median_ms - timing.min_ms for timing in found]
                above = [timing.max_ms - timing.median_ms for timing in found]
                lengths = [timing.length for timing in found]
                axes.errorbar(lengths, middle, (below, above), label=side, capsize=3, **_look(place))
            lengths = sorted({timing.length for timing in timings if timing.batch == batch})
            axes.set(xlabel="tokens in a window", ylim=(0, None), xticks=lengths, xlim=(0, 1.08 * lengths[-1]))
            axes.set_title(f"batch of {batch}", loc="left")
        panels[0].set_ylabel("milliseconds a batch")
        legend_beside(panels[-1])
        return svg_text(svg_tree(figure))


def growth_plot(points: Sequence[Growth]) -> str:
    """A column per axis: seconds above, peak memory below, a line for each side."""
    names = list(dict.fromkeys(point.axis for point in points))
    sides = list(dict.fromkeys(point.side for point in points))
    with new_figure(max(560, 280 * len(names) + 200), 440) as figure:
        panels = figure.subplots(2, len(names), squeeze=False, sharex="col")
        for (time, memory), name in zip(panels.T, names, strict=True):
            for place, side in enumerate(sides):
                found = [point for point in points if (point.axis, point.side) == (name, side)]
                values = [point.value for point in found]
                time.plot(values, [point.seconds for point in found], label=side, **_look(place))
                memory.plot(values, [point.peak_mib or float("nan") for point in found], **_look(place))
            _scale(time, memory, [point for point in points if point.axis == name])
        panels[0][0].set_ylabel("seconds")
        panels[1][0].set_ylabel("peak memory, MiB")
        legend_beside(panels[0][-1])
        return svg_text(svg_tree(figure))


def _scale(time: Axes, memory: Axes, points: Sequence[Growth]) -> None:
    """Logarithmic where the axis spans powers of ten; memory always from zero, so that flat looks flat."""
    values = sorted({point.value for point in points})
    if values[-1] >= 10 * values[0] > 0:
        time.set(xscale="log", yscale="log")
        for axis in (time.xaxis, time.yaxis, memory.xaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
    else:
        time.set(xticks=values, ylim=(0, 1.1 * max(point.seconds for point in points)))
    memory.set(xlabel=points[0].axis, ylim=(0, 1.1 * max(point.peak_mib or 1 for point in points)))


def _look(place: int) -> dict[str, Any]:
    """Colour and marker of the side at this place; both, for those who see no colours."""
    return {
        "color": SERIES[(0, 5, 2, 4, 1, 3)[place % len(SERIES)]],
        "marker": _MARKERS[(place + place // len(SERIES)) % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }
