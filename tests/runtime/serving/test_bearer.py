"""Tokens of a file: which files can be used, and what becomes of one that changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.serving.bearer import LOOK_AGAIN_S, Bearers

OLD, NEW = "Bearer " + "a" * 32, "Bearer " + "b" * 32


@pytest.mark.parametrize("content", ["", "# none\n", "short\n", "ü" * 40])
def test_a_file_without_usable_tokens_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with pytest.raises(InputError, match=r"tokens"):
        Bearers(file)


def test_a_file_that_changes_counts_soon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As Kubernetes changes a secret: the name is a link that leads elsewhere afterwards."""
    now = [0.0]
    for name, token in (("old", "a" * 32), ("new", "b" * 32), ("broken", "c")):
        (tmp_path / name).write_text(token)
    (link := tmp_path / "tokens").symlink_to("old")
    bearers = Bearers(link, clock=lambda: now[0])

    def lead_to(name: str) -> list[bool]:
        link.unlink()
        link.symlink_to(name)
        now[0] += LOOK_AGAIN_S
        return [bearers.admits(OLD), bearers.admits(NEW)]

    assert [bearers.admits(OLD), bearers.admits(NEW)] == [True, False]
    assert lead_to("new") == [False, True]
    for unusable in ("broken", "nowhere"):
        caplog.clear()
        assert lead_to(unusable) == lead_to(unusable) == [False, True]
        assert caplog.text.count("the tokens stay as they were") == 1
    assert lead_to("old") == [True, False]
