"""The text that Triton reads: exact here, and what Triton's own protobuf makes of it in test_protobuf.py."""

from __future__ import annotations

import pytest

from densepack_export.triton.config_text import Symbol, config_text, map_entries


def test_scalars_messages_lists_and_maps() -> None:
    fields = {
        "name": "m",
        "count": 2,
        "zero_data": True,
        "early": False,
        "kind": Symbol("KIND_CPU"),
        "dims": [1, -1],
        "empty": [],
        "input": [{"name": "a"}, {"name": "b", "dims": (3,)}],
        "files": map_entries({"9.0": "a.plan", "8.0": {"data_type": Symbol("TYPE_INT64")}}),
    }
    assert config_text(fields).splitlines() == [
        'name: "m"',
        "count: 2",
        "zero_data: true",
        "early: false",
        "kind: KIND_CPU",
        "dims: 1",
        "dims: -1",
        "input {",
        '  name: "a"',
        "}",
        "input {",
        '  name: "b"',
        "  dims: 3",
        "}",
        "files {",
        '  key: "9.0"',
        '  value: "a.plan"',
        "}",
        "files {",
        '  key: "8.0"',
        "  value {",
        "    data_type: TYPE_INT64",
        "  }",
        "}",
    ]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a b", r'"a b"'),
        ('say "x"', r'"say \042x\042"'),
        ("a\\b", r'"a\134b"'),
        ("a\nb\0", r'"a\012b\000"'),
        ("Ö", r'"\303\226"'),
    ],
)
def test_texts_are_escaped(text: str, written: str) -> None:
    assert config_text({"name": text}) == f"name: {written}\n"
