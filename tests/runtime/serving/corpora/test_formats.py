"""Parts of files: every row once, readable by itself, and carried through as it was."""

from __future__ import annotations

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.serving.corpora.formats import Part, format_of

COUNT = 23
ONE: dict[str, list[Any]] = {"answer": ["a"], "score": [0.5], "start": [1], "end": [2]}
NAMES = ["id", "question", "context", "more"]
# What a text file may hold: quotes, commas, line ends inside a field, characters of four bytes.
ROWS = [[str(n), f"q{n},", f'a "quoted"\r\nline{n}\n\U0001f600', ""] for n in range(COUNT)]


def written(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            lines = [json.dumps(dict(zip(NAMES, row, strict=True)), ensure_ascii=False) + "\n" for row in ROWS]
            path.write_text("\ufeff\n" + "\n".join(lines), encoding="utf-8", newline="")
        case ".csv":
            with path.open("w", encoding="utf-8-sig", newline="") as file:
                csv.writer(file).writerows([NAMES, *ROWS, []])
        case _:
            columns = {name: [row[place] for row in ROWS] for place, name in enumerate(NAMES)}
            pq.write_table(pa.table(columns), path, row_group_size=5)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("rows", [1, 4, 7, COUNT, COUNT + 1])
def test_parts_hold_every_row_once_and_in_order(tmp_path: Path, suffix: str, rows: int) -> None:
    path = written(tmp_path / f"in{suffix}")
    form = format_of(path)
    parts = list(form.parts(path, rows))
    assert [part.rows for part in parts] == [min(rows, COUNT - part.first) for part in parts]
    tables = [form.read(path, part) for part in parts]
    assert not any(table.faults for table in tables)
    found = [list(row) for table in tables for row in zip(*map(table.column, NAMES), strict=True)]
    assert found == ROWS
    assert list(form.read(path, parts[-1]).column("none")) == [None] * parts[-1].rows


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_was_written_reads_as_it_was(tmp_path: Path, suffix: str) -> None:
    path, out = written(tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    form = format_of(path)
    [part] = form.parts(path, COUNT)
    form.read(path, part).write(out, [6], ONE)
    table = form.read(out, *form.parts(out, COUNT))
    assert [list(row) for row in zip(*map(table.column, NAMES), strict=True)] == [ROWS[6]]
    assert [str(table.column(name)[0]) for name in ONE] == ["a", "0.5", "1", "2"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_without_rows_come_out(tmp_path: Path, suffix: str) -> None:
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    path.write_text("id,more\n", encoding="utf-8")
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": pa.array([], pa.uint16()), "more": pa.array([], pa.string())}), path)
    form = format_of(path)
    [part] = form.parts(path, 4)
    form.read(path, part).write(out, [], {name: [] for name in ONE})
    assert form.names(out) == ["id", "more", *ONE]
    assert [part.rows for part in form.parts(out, 4)] == [0]
    if suffix == ".parquet":
        assert [str(kind) for kind in pq.read_schema(out).types][:3] == ["uint16", "string", "string"]


def test_the_header_of_a_csv_file_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv")
    form = format_of(path)
    parts = list(form.parts(path, 4))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"question", b"QUESTION", 1))
    assert form.read(path, parts[1]).column("question") == [row[1] for row in ROWS[4:8]]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
        "when": pa.array([1, 2_000_000_001], pa.timestamp("ns", "Europe/Paris")),
        "day": pa.array([datetime.date(2026, 1, 2), None]),
        "tags": pa.array([["a"], []], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        "inner": pa.array([{"x": 1}, {"x": None}], pa.struct([("x", pa.uint8())])),
        "raw": pa.array([b"\xff", b""], pa.large_binary()),
    }
    table = pa.table(columns).replace_schema_metadata({"owner": "us"})
    pq.write_table(table, tmp_path / "in.parquet")
    form = format_of(tmp_path / "in.parquet")
    form.read(tmp_path / "in.parquet", Part(0, 2)).write(tmp_path / "out.parquet", [1], ONE)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(list(columns)).equals(table.take([1]))
    assert found.schema.metadata[b"owner"] == b"us"
    assert [str(found.schema.field(name).type) for name in ONE] == ["string", "double", "int64", "int64"]


def test_rows_that_cannot_be_read_keep_their_places(tmp_path: Path) -> None:
    lines = [b"{}", b"[1]", b'{"x": NaN}', b'{"x": 1e999}', b'{"answer": 1}', b'{"x": "\xff"}']
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    table = format_of(tmp_path / "in.jsonl").read(tmp_path / "in.jsonl", Part(0, 6))
    assert sorted(table.faults) == [1, 2, 3, 4]
    assert str(table.faults[4]) == "it has the column answer already, which an answer needs: rename it"
    (tmp_path / "in.csv").write_bytes(b"a,b\n1,2\n3\n4,5,6\n7\r8,9\n\xff,0\n")
    form = format_of(tmp_path / "in.csv")
    [part] = form.parts(tmp_path / "in.csv", 9)
    table = form.read(tmp_path / "in.csv", part)
    assert {place: str(fault)[:16] for place, fault in table.faults.items()} == {
        1: "it has 1 fields,",
        2: "it has 3 fields,",
        3: "no CSV: new-line",
    }
    table.write(tmp_path / "out.csv", [0, 4], {name: values * 2 for name, values in ONE.items()})
    assert (tmp_path / "out.csv").read_bytes().splitlines()[1:] == [b"1,2,a,0.5,1,2", b"\xff,0,a,0.5,1,2"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("in.csv", b"", "has no header"),
        ("in.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("in.txt", b"", "its name must end with .jsonl, .csv, .parquet, .ndjson"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        format_of(tmp_path / name).names(tmp_path / name)
