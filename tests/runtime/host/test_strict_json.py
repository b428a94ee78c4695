"""JSON that Python takes and that is none is refused, and what is no small file is not read."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from densepack_runtime.host.strict_json import parse_json, read_small


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ('{"a": [NaN]}', "the number NaN is none"),
        ("[-Infinity]", "the number -Infinity is none"),
        ('{"a": 1e999}', "the number '1e999' is too large"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "'utf-8' codec can't decode byte"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("9" * 4301, "Exceeds the limit"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_python_takes_for_json_and_is_none(text: str | bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(text)


def test_numbers_that_are_none_are_read_where_they_were_measured() -> None:
    assert math.isnan(parse_json("[NaN]", measured=True)[0])


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse_json('["\\ud83d\\ude00"]') == ["😀"]


def test_what_is_no_small_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(OSError, match="no regular file"):
        read_small(tmp_path / "fifo")
    with pytest.raises(OSError, match="a folder"):
        read_small(tmp_path)
    with pytest.raises(OSError, match="it has 11 bytes, at most 10 are read"):
        read_small(tmp_path / "large", most_bytes=10)
    assert read_small(tmp_path / "large", most_bytes=11) == bytes(11)
