"""Files of rows, cut into parts that can be read by themselves: JSON lines, CSV and Parquet.

    form = format_of(path)
    for part in form.parts(path, rows=2048):
        table = form.read(path, part)
        table.write(out, kept=[0], added={"answer": ["…"], "score": [0.9], "start": [3], "end": [4]})

A table holds one part. What a column holds is carried through: in Parquet with its type, in the text formats as text,
bytes that are no UTF-8 included. A row that cannot be read keeps its place among the `faults`.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densepack_runtime.errors import InputError, require
from densepack_runtime.question_answering.json_lines import json_object, strict_json

if TYPE_CHECKING:
    import pyarrow as pa

# A longer field is a quote that nobody closed.
_LONGEST_FIELD = 1 << 26
ADDED = ("answer", "score", "start", "end")
_ARROW_TYPES = dict(zip(ADDED, ("string", "float64", "int64", "int64"), strict=True))
Added = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """So many rows of a file from its row `first` (from 0); a text file has them at the byte `offset`.

    `names` are the columns that the header of a CSV file names.
    """

    first: int
    rows: int
    offset: int = 0
    names: tuple[str, ...] = ()


class Table(Protocol):
    """The rows of one part."""

    @property
    def faults(self) -> Mapping[int, InputError]:
        """What is wrong with those that cannot be read, by their places."""
        ...

    def column(self, name: str) -> Sequence[Any]:
        """What every row has there; None where it has nothing."""
        ...

    def write(self, path: Path, kept: Sequence[int], added: Added) -> None:
        """Write the rows at the places `kept` with the columns ADDED, which have a value for each of them."""
        ...


class Format(Protocol):
    """How files with this suffix are read and written."""

    suffix: str
    has_header: bool

    def names(self, path: Path) -> list[str]:
        """The columns of a file; without a header, those of its first row. Raises InputError for a broken header."""
        ...

    def parts(self, path: Path, rows: int) -> Iterator[Part]:
        """The parts of a file, each of so many rows but the last. Nothing is kept of what they hold.

        A file that has columns and no rows has one part without rows, so that its columns come out.
        """
        ...

    def read(self, path: Path, part: Part) -> Table:
        """One part, without reading what stands before it."""
        ...


# --- JSON lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _JsonTable:
    rows: list[dict[str, Any]]
    faults: dict[int, InputError] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.rows]

    def write(self, path: Path, kept: Sequence[int], added: Added) -> None:
        with path.open("w", encoding="utf-8") as file:
            for place, *values in zip(kept, *added.values(), strict=True):
                file.write(strict_json({**self.rows[place], **dict(zip(added, values, strict=True))}) + "\n")


class JsonLines:
    """A JSON object a line; empty lines are no rows."""

    suffix = ".jsonl"
    has_header = False

    def names(self, path: Path) -> list[str]:
        with path.open("rb") as file:
            first = next((_row_of(line) for _, line in _filled_lines(file)), {})
        return [] if isinstance(first, InputError) else list(first)

    def parts(self, path: Path, rows: int) -> Iterator[Part]:
        with path.open("rb") as file:
            yield from _marked(_filled_lines(file), rows)

    def read(self, path: Path, part: Part) -> Table:
        table = _JsonTable([])
        with path.open("rb") as file:
            file.seek(part.offset)
            for place, (_, line) in enumerate(islice(_filled_lines(file), part.rows)):
                row = _row_of(line)
                if isinstance(row, InputError):
                    table.faults[place], row = row, {}
                elif clash := clash_of(list(row)):
                    table.faults[place] = InputError(f"it {clash}")
                table.rows.append(row)
        return table


def _row_of(line: bytes) -> dict[str, Any] | InputError:
    """A row that can be written again, or what is wrong with it."""
    try:
        row = json_object(line.removeprefix(codecs.BOM_UTF8))
        strict_json(row)
    except (InputError, ValueError, RecursionError) as error:
        return InputError(str(error))
    return row


def _filled_lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, with the bytes up to and including each since the last one."""
    passed = 0
    for line in file:
        passed += len(line)
        if line.strip() not in (b"", codecs.BOM_UTF8):
            yield passed, line
            passed = 0


def _marked(
    sizes: Iterable[tuple[int, Any]], rows: int, offset: int = 0, names: tuple[str, ...] = ()
) -> Iterator[Part]:
    """The parts of rows of which the bytes are known, from an offset."""
    first = count = size = 0
    for taken, _ in sizes:
        count, size = count + 1, size + taken
        if count == rows:
            yield Part(first, count, offset, names)
            first, offset, count, size = first + count, offset + size, 0, 0
    if count or (names and not first):
        yield Part(first, count, offset, names)


# --- CSV --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CsvTable:
    names: Sequence[str]
    rows: list[list[str]]
    faults: dict[int, InputError]

    def column(self, name: str) -> list[str | None]:
        rows = (dict(zip(self.names, row, strict=False)) for row in self.rows)  # a row with a fault is empty
        return [row.get(name) for row in rows]

    def write(self, path: Path, kept: Sequence[int], added: Added) -> None:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*self.names, *added])
            writer.writerows([*self.rows[place], *values] for place, *values in zip(kept, *added.values(), strict=True))


class Csv:
    """Fields between commas, quoted where they need it (RFC 4180), with a header; lines end with LF or CR LF."""

    suffix = ".csv"
    has_header = True

    def names(self, path: Path) -> list[str]:
        return self._header(path)[1]

    def parts(self, path: Path, rows: int) -> Iterator[Part]:
        offset, names = self._header(path)
        with path.open("rb") as file:
            file.seek(offset)
            yield from _marked(_records(file), rows, offset, tuple(names))

    def read(self, path: Path, part: Part) -> Table:
        table = _CsvTable(part.names, [], {})
        with path.open("rb") as file:
            file.seek(part.offset)
            for place, (_, row) in enumerate(islice(_records(file), part.rows)):
                if isinstance(row, InputError):
                    table.faults[place] = row
                elif len(row) != len(part.names):
                    table.faults[place] = InputError(f"it has {len(row)} fields, and the header has {len(part.names)}")
                table.rows.append([] if place in table.faults else row)  # type: ignore[arg-type]
        return table

    def _header(self, path: Path) -> tuple[int, list[str]]:
        """Its bytes and its names."""
        with path.open("rb") as file:
            size, names = next(_records(file), (0, []))
        if isinstance(names, InputError) or not names:
            raise InputError(f"{path} has no header: its first line must name the columns")
        names[0] = names[0].removeprefix("\ufeff")
        return size, names


def _records(file: Iterable[bytes]) -> Iterator[tuple[int, list[str] | InputError]]:
    """Records that are not empty, or what is wrong with one, with the bytes up to its end since the last one."""
    passed = 0

    def lines() -> Iterator[str]:
        nonlocal passed
        for line in file:
            passed += len(line)
            yield line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines())
    while True:
        record: list[str] | InputError
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = InputError(f"no CSV: {error}")
        if record:
            yield passed, record
            passed = 0


# --- Parquet ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ParquetTable:
    table: pa.Table
    faults: dict[int, InputError] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        found: list[Any] = (
            self.table.column(name).to_pylist() if name in self.table.column_names else [None] * len(self.table)
        )
        return found

    def write(self, path: Path, kept: Sequence[int], added: Added) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.table.take(pa.array(kept, pa.int64()))
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, _ARROW_TYPES[name]))
        pq.write_table(table, path)


class Parquet:
    """Apache Parquet, read a row group at a time."""

    suffix = ".parquet"
    has_header = True

    def names(self, path: Path) -> list[str]:
        with self._open(path) as file:
            return list(file.schema_arrow.names)

    def parts(self, path: Path, rows: int) -> Iterator[Part]:
        with self._open(path) as file:
            total = file.metadata.num_rows
        yield from (Part(first, min(rows, total - first)) for first in range(0, max(total, 1), rows))

    def read(self, path: Path, part: Part) -> Table:
        import pyarrow as pa

        end = part.first + part.rows
        found: list[Any] = []
        with self._open(path) as file:
            groups, begin = _groups(file.metadata, part.first, end)
            for batch in file.iter_batches(batch_size=max(part.rows, 1), row_groups=groups):
                first, begin = begin, begin + batch.num_rows
                if first < end and begin > part.first:
                    start = max(part.first - first, 0)
                    found.append(batch.slice(start, min(end, begin) - first - start))
            return _ParquetTable(pa.Table.from_batches(found, file.schema_arrow))

    def _open(self, path: Path) -> Any:
        """The opened file. Raises InputError for what is no Parquet."""
        pq = require("pyarrow.parquet", "batch")
        import pyarrow as pa

        try:
            return pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}") from error


def _groups(metadata: Any, first: int, end: int) -> tuple[list[int], int]:
    """The row groups that hold these rows, and the row that the first of them begins with."""
    groups: list[int] = []
    begin = row = 0
    for number in range(metadata.num_row_groups):
        after = row + metadata.row_group(number).num_rows
        if row < end and after > first:
            begin = begin if groups else row
            groups.append(number)
        row = after
    return groups, begin


# ----------------------------------------------------------------------------------------------------------------------

FORMATS: Mapping[str, Format] = {form.suffix: form for form in (JsonLines(), Csv(), Parquet())} | {
    ".ndjson": JsonLines()
}


def format_of(path: Path) -> Format:
    """The format that a file's name ends with. Raises InputError."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"{path} is of no known kind: its name must end with {', '.join(FORMATS)}")
    return form


def clash_of(names: Sequence[str]) -> str | None:
    """What to say of columns that an answer would replace."""
    found = [name for name in names if name in ADDED]
    return f"has the column {', '.join(found)} already, which an answer needs: rename it" if found else None
