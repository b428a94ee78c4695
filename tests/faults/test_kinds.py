"""A few tries of every kind of fault; `python -m tests.faults.tally` tries them as often as docs/faults.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kinds.kind import Kind, broken
from tests.faults.tally import all_kinds, try_kind


@pytest.mark.parametrize("kind", all_kinds().values(), ids=lambda kind: kind.name)
def test_no_try_ends_as_none_may(kind: Kind, tmp_path: Path) -> None:
    counts = try_kind(kind, kind.quick, tmp_path)

    assert sum(counts.values()) == kind.quick
    assert not [ending for ending in counts if broken(ending)]
