"""`densepack batch`: files in, answered parts out, stopped and resumed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from tests.command_line import CommandLine, Outcome
from tests.conftest import TINY_BUNDLE

SETTINGS = ("--backend", "onnxruntime", "--threads", "1")
SECONDS = 60
PARTS = 100
QUESTIONS = ("who saw the dog ?", "what did the old man see ?", "where is the dog ?")
ANSWER = ("answer", "score", "start", "end")

Batch = Callable[..., Outcome]


@pytest.fixture
def batch(densepack: CommandLine) -> Batch:
    return lambda given, out, *options: densepack("batch", TINY_BUNDLE, given, out, *SETTINGS, *options)


def row(number: int) -> dict[str, Any]:
    context = "the old man saw the dog . " * (1 + number % 4)
    return {"id": number, "question": QUESTIONS[number % 3], "context": context, "more": [number, None, "é"]}


def write_lines(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(count)), encoding="utf-8")
    return path


def lines_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def expected(rows: list[dict[str, Any]], **rules: Any) -> list[dict[str, Any]]:
    with QuestionAnswerer.open(TINY_BUNDLE, backend="onnxruntime", threads=1, rules=SpanRules(**rules)) as answerer:
        return [answer.as_dict() for answer in answerer.answer_many(rows)]


def test_every_row_comes_out_with_its_columns_and_its_answer(batch: Batch, tmp_path: Path) -> None:
    done = batch(write_lines(tmp_path / "in.jsonl", 10), tmp_path / "out", "--rows", "4", "--json")
    assert done.code == 0, done.err
    assert done.next_step == f"ls {tmp_path / 'out'}"
    told = json.loads(done.out)
    assert (told["rows"], told["bad_rows"], told["parts"], told["parts_done_before"]) == (10, 0, 3, 0)
    found = lines_in(tmp_path / "out")
    rows = [row(number) for number in range(10)]
    assert [{name: value for name, value in line.items() if name not in ANSWER} for line in found] == rows
    assert [line["answer"] for line in found] == [answer["answer"] for answer in expected(rows)]
    assert all(line["context"][line["start"] : line["end"]] == line["answer"] for line in found)
    assert [line["score"] for line in found] == pytest.approx([answer["score"] for answer in expected(rows)])


def test_csv_and_parquet_give_the_same_answers_under_names_of_ones_own(batch: Batch, tmp_path: Path) -> None:
    rows = [row(number) for number in range(6)]
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("q", "text", "id"), *((one["question"], one["context"], one["id"]) for one in rows)]
        )
    table = {"q": [one["question"] for one in rows], "text": [one["context"] for one in rows]}
    pq.write_table(pa.table({**table, "id": pa.array(range(6), pa.uint16())}), tmp_path / "in.parquet")
    names = ("--question", "q", "--context", "text", "--id", "id")
    for kind in ("csv", "parquet"):
        assert batch(tmp_path / f"in.{kind}", tmp_path / kind, *names).code == 0
    with (tmp_path / "csv" / "00000-00000.csv").open(encoding="utf-8", newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pq.read_table(tmp_path / "parquet")  # the folder, as a reader of data takes it
    assert from_parquet.column_names == ["q", "text", "id", *ANSWER]
    assert from_parquet.schema.field("id").type == pa.uint16()
    wanted = [answer["answer"] for answer in expected(rows)]
    assert [line["answer"] for line in from_csv] == from_parquet.column("answer").to_pylist() == wanted
    assert [float(line["score"]) for line in from_csv] == from_parquet.column("score").to_pylist()


def test_folders_and_globs_hold_the_same_files(batch: Batch, tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.jsonl", "_hidden.jsonl"):
        write_lines(tmp_path / "in" / name, 3)
    (tmp_path / "in" / "notes.txt").touch()
    # The output may lie in the input: a second run does not take it for one.
    for _ in range(2):
        assert batch(tmp_path / "in", tmp_path / "in" / "out").code == 0
    assert batch(tmp_path / "in" / "**" / "[ab].jsonl", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "in" / "out")
    assert set(contents(tmp_path / "out")) == {"00000-00000.jsonl", "00001-00000.jsonl", "_job.json"}
    assert batch(tmp_path / "none*.jsonl", tmp_path / "no").error_lines[0].startswith("error: there is no file to read")
    write_lines(tmp_path / "in" / "c.ndjson", 1)
    (tmp_path / "in" / "d.csv").write_text("question,context\n", encoding="utf-8")
    assert "files of several formats" in batch(tmp_path / "in", tmp_path / "no").err
    assert not (tmp_path / "no").exists()


def test_bad_rows_go_to_a_file_of_their_own(batch: Batch, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", 5)
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            '{"id": "six", "question": "who ?", "context": null}\n{\n{"id": 8, "question": "", "context": "x"}\n'
        )
    done = batch(tmp_path / "in.jsonl", tmp_path / "out", "--rows", "6")
    assert done.code == 1
    assert done.error_lines == [
        f"error: 3 of 8 rows could not be answered: {tmp_path / 'out' / '_bad'} says which and why"
    ]
    bad = lines_in(tmp_path / "out" / "_bad")
    assert [(one["file"], one["row"], one.get("id")) for one in bad] == [
        ("in.jsonl", 6, "six"),
        ("in.jsonl", 7, None),
        ("in.jsonl", 8, 8),
    ]
    assert bad[0]["reason"] == '"context" must be a string, it is None'
    assert bad[1]["reason"].startswith("not JSON: ")
    assert [line["id"] for line in lines_in(tmp_path / "out")] == list(range(5))
    again = batch(tmp_path / "in.jsonl", tmp_path / "out", "--rows", "6")
    assert (again.code, again.error_lines) == (1, done.error_lines)


def test_a_killed_run_goes_on_and_ends_like_one_left_alone(batch: Batch, tmp_path: Path) -> None:
    given, out = write_lines(tmp_path / "in.jsonl", 5 * PARTS), tmp_path / "out"
    with given.open("a", encoding="utf-8") as file:
        file.write("{\n")
    command = [sys.executable, "-c", "from densepack_export.cli import main; main()", "batch", str(TINY_BUNDLE)]
    with subprocess.Popen([*command, str(given), str(out), *SETTINGS, "--rows", "5"], stderr=subprocess.DEVNULL) as run:
        end = time.monotonic() + SECONDS
        while len(list(out.glob("*.jsonl"))) < 3 and time.monotonic() < end:
            time.sleep(0.002)
        run.kill()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.jsonl")}
    assert 3 <= len(kept) < PARTS
    (out / ".00000-00099.jsonl.x.tmp").touch()  # what a kill may leave
    done = batch(given, out, "--rows", "5", "--json")
    assert done.code == 1, done.err  # the last row is none
    assert json.loads(done.out)["parts_done_before"] == len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    batch(given, tmp_path / "alone", "--rows", "5")
    assert contents(out) == contents(tmp_path / "alone")
    assert [line["id"] for line in lines_in(out)] == list(range(5 * PARTS))


def test_another_job_is_refused_and_says_what_differs(batch: Batch, tmp_path: Path) -> None:
    given, out = write_lines(tmp_path / "in.jsonl", 3), tmp_path / "out"
    assert batch(given, out).code == 0
    before = contents(out)
    assert "differs in null_threshold (None then, 1.5 now)" in batch(given, out, "--null-threshold", "1.5").err
    assert "differs in compat (None then, 'transformers' now)" in batch(given, out, "--compat").err
    write_lines(given, 4)
    assert "differs in the file in.jsonl: ask for the same" in batch(given, out).err
    assert contents(out) == before
    assert batch(given, out, "--overwrite", "--null-threshold", "-1000").code == 0
    assert [line["answer"] for line in lines_in(out)] == [""] * 4
    assert expected([row(0)], null_threshold=-1000.0)[0]["answer"] == ""
    (out / "thesis.txt").touch()
    assert "it holds thesis.txt" in batch(given, out, "--overwrite").err
    assert (out / "_job.json").exists()


def test_a_folder_of_somebody_else_is_refused(batch: Batch, tmp_path: Path) -> None:
    given = write_lines(tmp_path / "in.jsonl", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000-00000.jsonl").touch()  # a name of ours alone is no proof
    assert "it holds 00000-00000.jsonl" in batch(given, tmp_path / "out", "--overwrite").err


@pytest.mark.parametrize(
    ("header", "options", "told"),
    [
        ("question,context,score", (), "has the column score already, which an answer needs: rename it"),
        ("question,text", (), "has no column context; it has question, text"),
        ("question,context", ("--id", "key"), "has no column key; it has question, context"),
        ("question,context,context", (), "has more than one column context"),
        ("question,context", ("--compat", "--null-threshold", "1"), "a null threshold is of the SQuAD rule"),
    ],
)
def test_columns_are_refused_before_the_work(
    batch: Batch, tmp_path: Path, header: str, options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "in.csv").write_text(f"{header}\n", encoding="utf-8")
    done = batch(tmp_path / "in.csv", tmp_path / "out", *options)
    assert done.code == 1
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_a_clash_in_json_lines_is_refused_where_the_first_row_has_it(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"question": "q", "context": "c", "answer": "a"}\n', encoding="utf-8")
    assert "has the column answer already" in batch(tmp_path / "in.jsonl", tmp_path / "out").err
