"""From samples to the figures of a benchmark document: medians, spread, percentiles, ratios round by round."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 99)


def spread(values: Sequence[float]) -> float:
    """Interquartile range over median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50_ms, p90_ms and p99_ms, interpolated between the two nearest values."""
    found = np.percentile(seconds, PERCENTILES)
    return {f"p{percent}_ms": float(value) * 1e3 for percent, value in zip(PERCENTILES, found, strict=True)}


def ratios(base: Sequence[float], other: Sequence[float], flop_limit: float) -> dict[str, Any]:
    """How many times as fast `other` is, from the seconds of both round by round.

    `flop_limit` is how many times fewer floating point operations it takes.
    """
    found = [slow / fast for slow, fast in zip(base, other, strict=True)]
    middle = median(found)
    return {
        "median": middle,
        "min": min(found),
        "max": max(found),
        "spread": spread(found),
        "flop_limit": flop_limit,
        "share_of_flop_limit": middle / flop_limit,
    }
