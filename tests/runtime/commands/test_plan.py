"""`densepack plan`, through the command line: what it measured is kept, and used only where it is true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import CommandLine

LAST = Path(__file__).parents[2] / "last_version" / "bundle"

ONE = {"id": "1", "question": "Who was it?", "answers": [{"text": "Anna", "answer_start": 0}]}
SHORT = {"version": "1.1", "data": [{"paragraphs": [{"context": "Anna built it.", "qas": [ONE]}]}]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(LAST, tmp_path_factory.mktemp("planned") / "bundle")


def test_times_are_measured_once_and_kept(
    densepack: CommandLine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = tmp_path / "times.json"
    (tmp_path / "lengths.json").write_text(json.dumps(SHORT))
    asked = (
        "plan",
        bundle,
        "--rate",
        200,
        "--p99-ms",
        60_000,
        "--lengths",
        tmp_path / "lengths.json",
        "--times",
        times,
    )
    told = json.loads(densepack(*asked, "--json").out)
    assert told["replicas"] == -(-200 // told["most"])
    assert told["rate"] * told["replicas"] == pytest.approx(200)
    assert {(one["rows"], one["length"]) for one in told["times"]["shapes"]} >= {(1, 32), (64, 32)}
    kept = json.loads(times.read_text())
    assert kept["times"] == told["times"]
    assert kept["times"]["between_s"] > 0
    assert len(kept["times"]["extras"]) >= 512 / 64  # batches that were served
    for one in kept["times"]["shapes"]:
        one.update(alone_s=10 * one["alone_s"], together_s=10 * one["together_s"])
    times.write_text(json.dumps(kept))
    assert json.loads(densepack(*asked, "--json").out)["most"] < told["most"]
    shown = densepack(*asked)
    assert shown.code == 0
    assert "replicas like this host" in shown.out

    refused = densepack(*asked[:5], "0.1", *asked[6:])
    assert refused.code == 1
    assert "no number of replicas" in refused.error_lines[0]

    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    [line] = densepack(*asked).error_lines
    assert line.endswith("was measured with instruction sets all, and here it is SSE41: give another --times")


def test_a_damaged_file_of_times_is_one_line(densepack: CommandLine, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text('{"measured_of": {}, "times": 3}')
    done = densepack("plan", bundle, "--rate", 1, "--p99-ms", 100, "--times", tmp_path / "times.json")
    assert done.code == 1
    fault = "Expected `object`, got `int` - at `times`"
    assert done.error_lines == [f"error: the file of times cannot be read ({fault}): give another file to --times"]
