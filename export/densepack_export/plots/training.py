"""The curves of a training log: losses, what is left, and scores where there are some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from densepack_export.plots.drawing import FAINT, SERIES, legend_beside, new_figure, svg_text, svg_tree


def training_plot(rows: Sequence[dict[str, str]]) -> str:
    """Two panels over the steps of all stages; `rows` are those of training_log.csv."""
    with new_figure(720, 440) as figure:
        losses, density = figure.subplots(2, sharex=True)
        steps, starts = _steps(rows)
        for name, text, colour in (
            ("kd", "distillation", SERIES[0]),
            ("ce", "cross-entropy with the answers", SERIES[5]),
        ):
            losses.plot(steps, _column(rows, name), color=colour, label=text, linewidth=1)
        losses.set(ylabel="loss")
        legend_beside(losses)
        density.plot(steps, 100 * _column(rows, "density"), color=SERIES[0], label="linear density, %")
        density.plot(steps, _column(rows, "heads"), color=SERIES[2], label="heads left")
        scores = _column(rows, "f1")
        if np.isfinite(scores).any():
            density.plot(steps, scores, "o", color=SERIES[5], markersize=4, label="F1, %")
        density.set(xlabel="step", ylim=(0, None))
        legend_beside(density)
        for start, name in starts:
            for axes in (losses, density):
                axes.axvline(start, color=FAINT, linewidth=0.6, linestyle=":")
            losses.annotate(
                name, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, -9), textcoords="offset points"
            )
        return svg_text(svg_tree(figure))


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
