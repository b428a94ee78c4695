"""The schedule against the published run's values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densepack_models.pruning.options import PRESETS
from densepack_models.pruning.schedule import Schedule, default_warmup
from densepack_runtime.errors import InputError

PUBLISHED = PRESETS["hybrid"].schedule(total=110_660, warmup=default_warmup(110_660))


@pytest.mark.parametrize(
    ("step", "threshold", "regularisation"),
    [
        (0, 0.0, 0.0),
        (5_400, 0.0, 0.0),
        (20_000, 0.0634202, 12.6840),
        (40_000, 0.0965669, 19.3134),
        (56_660, 0.1, 20.0),
        (110_660, 0.1, 20.0),
    ],
)
def test_the_published_run(step: int, threshold: float, regularisation: float) -> None:
    assert PUBLISHED.warmup == 5_400
    assert PUBLISHED.threshold(step) == pytest.approx(threshold, abs=5e-8)
    assert PUBLISHED.regularisation(step) == pytest.approx(regularisation, abs=5e-5)


@given(total=st.integers(20, 5_000), first=st.floats(0, 1), last=st.floats(0, 1))
def test_it_goes_from_the_first_threshold_to_the_last(total: int, first: float, last: float) -> None:
    schedule = Schedule(total, default_warmup(total), first_threshold=first, last_threshold=last)
    path = [schedule.threshold(step) for step in range(total + 1)]
    assert path[0] == pytest.approx(first)
    assert path[-1] == last
    assert path == sorted(path, reverse=last < first)
    assert schedule.density(0, 0.3, 0.9) == pytest.approx(0.9)
    assert schedule.density(total, 0.3, 0.9) == 0.3


def test_a_threshold_that_starts_above_zero() -> None:
    """λ follows τ(s)/τ1, as published."""
    schedule = Schedule(100, 0, first_threshold=0.05, last_threshold=0.1)
    assert schedule.regularisation(0) == pytest.approx(10)
    assert schedule.regularisation(100) == pytest.approx(20)


def test_no_room_to_prune() -> None:
    with pytest.raises(InputError, match=r"a run of 100 steps has no room to prune: 1 \+ 10 times 10 warm-up steps"):
        Schedule(100, 10)
