"""Every example does what it says, on the bundle that the demo builds."""

from __future__ import annotations

import ast
import runpy
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from string import Template
from typing import Any

import nbformat
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from starlette.testclient import TestClient

from densepack_models.families.bert import BERT
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import analyse
from densepack_runtime import PipelineRules, QuestionAnswerer
from densepack_runtime.serving.options import ServerOptions
from tests.command_line import CommandLine
from tests.conftest import REPOSITORY
from tests.models.tiny_checkpoints import written_checkpoint

EXAMPLES = REPOSITORY / "examples"
QUESTION, CONTEXT = "Who built it?", "It was built by Anna Berg."
SMALL = ["--batches", "1", "--lengths", "16", "--rounds", "1", "--no-memory"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`densepack` is found, as where it is installed."""
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=":")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """What a script defines, run in this process as from the command line."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_listed() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith("_")} - {"README.md"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {name for name in there if f"]({name}" in text} == there


def test_ten_lines(default_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("ten_lines.py", monkeypatch, default_bundle)
    assert "'Anna Berg', characters 16 to 25, score " in capsys.readouterr().out
    code = ast.parse((EXAMPLES / "ten_lines.py").read_text(encoding="utf-8")).body[1:]
    assert sum(node.end_lineno - node.lineno + 1 for node in code if node.end_lineno) <= 10


def test_inside_fastapi(default_bundle: Path) -> None:
    pytest.importorskip("fastapi", reason="fastapi, which comes with the extra `ray`, is not installed")
    application = runpy.run_path(str(EXAMPLES / "in_fastapi.py"))["application"]
    with TestClient(application(default_bundle, ServerOptions(backend="onnxruntime"))) as client:
        answered = client.post("/qa/v1/answer", json={"question": QUESTION, "context": CONTEXT})
        assert (answered.status_code, answered.json()["answer"]) == (200, "Anna Berg")
        assert client.get("/about").json() == {"model": client.get("/qa/v1/model").json()["name"]}
        assert client.get("/qa/readyz").json() == {"ready": True}
        assert b"densepack_requests_total" in client.get("/qa/metrics").content


@pytest.mark.usefixtures("scripts")
def test_batch_over_parquet(
    default_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("batch_parquet.py", monkeypatch, default_bundle, tmp_path / "answers")
    assert capsys.readouterr().out.startswith("1 Who built it? Anna Berg ")
    table = pq.read_table(tmp_path / "answers")
    assert table.column_names == ["key", "q", "passage", "answer", "score", "start", "end"]
    assert table["key"].to_pylist() == [1, 2, 3]
    run("batch_parquet.py", monkeypatch, default_bundle, tmp_path / "answers")
    assert capsys.readouterr().out.startswith("1 Who built it? Anna Berg "), "again on what is finished"


def test_in_place_of_the_old_pipeline(
    default_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("old_pipeline.py", monkeypatch, default_bundle)
    told = ast.literal_eval(capsys.readouterr().out)
    with QuestionAnswerer.open(default_bundle, pipeline_rules=PipelineRules(top_k=2)) as qa:
        best, second = qa.best_answers(question=QUESTION, context=CONTEXT, count=2, compat="transformers")
    assert told == {"score": pytest.approx(best.score), "start": 16, "end": 25, "answer": "Anna Berg"}
    two = example["pipeline"]("question-answering", model=str(default_bundle), top_k=2)
    [listed] = two([QUESTION], CONTEXT)
    assert [one["answer"] for one in listed] == [best.text, second.text]
    with pytest.raises(ValueError, match="not 'summarization'"):
        example["pipeline"]("summarization", model="")


@pytest.mark.slow
def test_prune_your_own(densepack: CommandLine, tmp_path: Path) -> None:
    """Its commands with a tiny model, in this process; and the shell reads the script."""
    script = EXAMPLES / "prune_your_own.sh"
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=10)
    model, out = written_checkpoint(tmp_path / "model", BERT, hidden_size=64), tmp_path / "out"
    out.mkdir()
    text = Template(script.read_text(encoding="utf-8")).safe_substitute(MODEL=model, DATA="sample", OUT=out)
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("densepack ")]
    quicker = {
        "shrink": ["--questions", "2", "--max-length", "256"],
        "build": ["--limit", "2", "--max-length", "256"],
        "bench": SMALL,
    }
    assert [command[0] for command in commands] == ["shrink", "inspect", "build", "bench"]
    for command in commands:
        done = densepack(*command, *quicker.get(command[0], ()))
        assert done.code == 0, (command, done.err)
    assert analyse(load_checkpoint(out / "small")).linear_density <= 0.5
    assert "bundle@packed-openvino" in done.out


@pytest.mark.slow
@pytest.mark.usefixtures("scripts")
def test_the_notebook(default_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", str(default_bundle))
    notebook = nbformat.read(EXAMPLES / "bundle_in_pictures.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "outputs are stored with it"
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=False).execute()
    shown = [output.data for cell in cells for output in cell.outputs if output.output_type == "execute_result"]
    assert "Anna Berg" in shown[1]["text/plain"]
    assert sum("image/svg+xml" in data for data in shown) == 3
