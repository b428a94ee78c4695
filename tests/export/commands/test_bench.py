"""`densepack bench`: its sides, its sections, and what it writes down."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from densepack_export.bench.names import SideName, kinds, variants
from densepack_export.bench.sides import open_side
from densepack_export.commands import bench as bench_cli
from densepack_export.commands.bench import _with_texts
from densepack_runtime.benchmark.sides import Side, Texts
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.command_record import told_command
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.session import Session
from densepack_runtime.structure import Cost
from tests.command_line import CommandLine
from tests.sleeping_session import SleepingSession

SECONDS = 120


def test_sides_side_by_side_on_batches_and_on_squad(
    densepack: CommandLine, default_bundle: Path, tmp_path: Path
) -> None:
    sides = (f"{default_bundle}@dense-torch-bf16", f"{default_bundle}@packed")
    shapes = ("--batches", "1", "--lengths", "16,32", "--rounds", "2", "--settle", "0", "--no-memory")
    outcome = densepack(
        "bench", *sides, *shapes, "--squad", "sample", "--limit", "3", "--out", tmp_path / "b.json", "--json"
    )
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document == json.loads((tmp_path / "b.json").read_text())
    assert [(row["batch"], row["length"]) for row in document["ratios"]] == [(1, 16), (1, 32)]
    dense, packed = document["sides"]
    assert dense["cost"]["per_token"] > 2 * packed["cost"]["per_token"]
    assert (dense["backend"], dense["precision"], dense["weights"]) == ("pytorch", "bf16", "random")
    assert packed["weights"] == "trained"
    assert [row["side"] for row in document["squad"]["sides"]] == [dense["name"], packed["name"]]
    assert document["squad"]["questions"] == 3
    assert document["command"] == (
        f"densepack bench bundle@dense-torch-bf16 bundle@packed {' '.join(shapes)} --squad sample --limit 3 "
        "--out b.json --json"
    )
    assert str(tmp_path) not in outcome.out
    assert "note: bundle@dense-torch-bf16: random weights; times count, EM and F1 mean nothing" in outcome.err


def test_memory_and_growth_in_tables(densepack: CommandLine, default_bundle: Path) -> None:
    growth = ("--growth", "--growth-questions", "2", "--growth-words", "30", "--growth-threads", "1")
    cells = ("--batches", "1", "--lengths", "16", "--rounds", "1")
    outcome = densepack("bench", f"{default_bundle}@packed-onnxruntime", *cells, *growth)
    assert outcome.code == 0, outcome.err
    for title in ("latency", "MiB in RAM of a fresh process", "how cost grows"):
        assert title in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith("bundle@packed-onnxruntime")]
    [memory] = [row for row in rows if len(row) == 3]
    ready, peak = (int(number) for number in memory[1:])
    assert 0 < ready <= peak
    assert {tuple(row[1:3]) for row in rows if len(row) > 3} >= {("questions", "2"), ("threads", "1")}
    assert "compared with" not in outcome.out


def test_a_packed_side_of_a_bundle_needs_no_torch(default_bundle: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'onnx'): sys.modules[name] = None\n"
        "from densepack_export.cli import main\n"
        f"sys.argv = ['densepack', 'bench', {str(default_bundle)!r}, '--batches', '1', '--lengths', '16',"
        " '--rounds', '1', '--no-memory']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "bundle@packed" in done.stdout


def test_unknown_sides_and_nothing_to_measure(densepack: CommandLine, default_bundle: Path) -> None:
    [line] = densepack("bench", f"{default_bundle}@fast").error_lines
    assert line.startswith(f"error: unknown variant 'fast' in '{default_bundle}@fast'; known: packed, dense, ")
    [line] = densepack("bench", default_bundle, "--no-latency").error_lines
    assert line == "error: nothing to measure: --no-latency needs --squad or --growth"


def test_the_help_names_every_kind(densepack: CommandLine) -> None:
    told = re.findall(r"\s-([\w-]+)", densepack("bench", "--help").out)
    default = ("", "onnxruntime")
    assert [kind for kind in kinds() if kind not in (*told, *default)] == []


def test_every_kind_is_a_variant_and_gpus_are_asked_for() -> None:
    for variant in variants():
        if Host.here().gpu is not None or not any(kind in variant for kind in ("cuda", "tensorrt")):
            assert SideName.parse(f"seed@{variant}").dense == variant.startswith("dense")
        else:
            with pytest.raises(BackendError, match="needs an NVIDIA GPU, and there is none here"):
                SideName.parse(f"seed@{variant}")
    assert SideName.parse("seed@packed").kind == SideName.parse("seed@dense-onnxruntime").kind


def test_the_variant_is_behind_the_last_at_unless_the_whole_is_a_path(tmp_path: Path) -> None:
    assert SideName.parse("models@v2/a@dense") == SideName("models@v2/a", "dense")
    assert SideName.parse("plain") == SideName("plain", "packed")
    (tmp_path / "model@v2").mkdir()
    assert SideName.parse(f"{tmp_path}/model@v2") == SideName(f"{tmp_path}/model@v2", "packed")
    assert SideName.parse(f"{tmp_path}/model@v2@dense") == SideName(f"{tmp_path}/model@v2", "dense")
    with pytest.raises(InputError, match="unknown variant 'v3'"):
        SideName.parse(f"{tmp_path}/model@v3")


def test_a_compiled_side_without_a_compiler_is_an_error(
    default_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with ExitStack() as opened, pytest.raises(BackendError, match="no-such-compiler is not here"):
        open_side(f"{default_checkpoint}@packed-torch-compile", opened)


def test_a_side_without_tokenizer_gets_one(
    default_checkpoint: Path, default_tokenizer_json: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Session = SleepingSession("seed", 0)
    seed = Side("seed@packed", session, Cost(1, 0))
    own = replace(seed, name="own", texts=Texts("its own"))
    found = _with_texts([seed, own], None)
    assert found[0].texts == Texts(default_tokenizer_json)
    assert found[1].texts == Texts("its own")
    (tmp_path / "other.json").write_text("another", encoding="utf-8")
    assert _with_texts([seed], tmp_path / "other.json")[0].texts == Texts("another")
    with pytest.raises(InputError, match=r"the tokenizer file .*none\.json cannot be read"):
        _with_texts([seed], tmp_path / "none.json")
    monkeypatch.setattr(bench_cli, "_DEFAULT_TOKENIZER", tmp_path / "none.json")  # as in an installed wheel
    assert _with_texts([own], None) == [own]
    with pytest.raises(InputError, match="seed@packed has no tokenizer: pass --tokenizer"):
        _with_texts([seed], None)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("/somewhere/bundle@packed-torch", "bundle@packed-torch"),
        ("/somewhere/bundle/", "bundle"),
        ("--out=/somewhere/b.json", "--out=b.json"),
        ("--no-memory", "--no-memory"),
        ("seed@dense", "seed@dense"),
        (".", "."),
    ],
)
def test_a_command_is_told_without_folders(argument: str, told: str) -> None:
    assert told_command(["bench", argument]) == f"densepack bench {told}"
