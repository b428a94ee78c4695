"""Tables in the documents are those that the result files make, and the comparison with the peers counts rightly."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from densepack_runtime.squad import sample_squad_path
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def regenerate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("regenerate", REPOSITORY / "docs" / "regenerate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compare(regenerate: ModuleType) -> ModuleType:
    return regenerate._comparison()  # type: ignore[no-any-return]


def run(name: str, number: int, seconds: float, mib: float = 100) -> dict[str, Any]:
    place = {"allocator": "default", "round": number, "name": name}
    return place | {"seconds": seconds, "questions": 10, "peak_mib": mib, "versions": {"python": "3"}}


def test_no_table_is_stale(regenerate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert regenerate.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_table_is_found_and_mended(
    regenerate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- peers -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(regenerate, "documents", lambda: [path])
    monkeypatch.setitem(regenerate.BLOCKS, "peers", lambda: "new \\1")
    assert regenerate.main(["--check"]) == 1
    assert "old" in path.read_text(encoding="utf-8")
    assert regenerate.main([]) == 0
    assert path.read_text(encoding="utf-8") == "before\n<!-- peers -->\nnew \\1\n<!-- end -->\nafter\n"
    assert regenerate.main(["--check"]) == 0


def test_peers_are_compared_round_by_round(compare: ModuleType) -> None:
    peer = "transformers 4.57 pipeline, dense"
    times = {peer: (8.0, 4.0, 6.0), compare.OURS: (1.0, 2.0, 1.0), "densepack, INT8": (0.5, 0.5, 0.5)}
    runs = [run(name, number, seconds) for name, all_ in times.items() for number, seconds in enumerate(all_)]
    assert compare.ratios(runs, peer, compare.OURS) == pytest.approx([8, 2, 6])
    table = compare.table({"runs": runs})
    assert f"| {peer} | 1.7 | 100 | 6.00 (2.00 to 8.00) | 12.00 (8.00 to 16.00) |" in table
    assert f"| {compare.OURS} | 10.0 | 100 | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 4.00) |" in table
    assert "BF16 against it" not in table


def test_every_contestant_runs_once_a_round_and_the_first_changes(compare: ModuleType) -> None:
    rounds: dict[int, list[str]] = {}
    for number, contestant in compare._turns(3):
        rounds.setdefault(number, []).append(contestant.name)
    assert len({names[0] for names in rounds.values()}) == 3
    assert {frozenset(names) for names in rounds.values()} == {frozenset(one.name for one in compare.CONTESTANTS)}


def test_the_clock_runs_from_the_file_to_the_score(tmp_path: Path) -> None:
    """speed_clock.py in a process of its own, as the peers run it: an answerer that knows the answers."""
    code = (
        "import sys, time; from speed_clock import arguments, run\n"
        "def answer(dataset):\n"
        "    time.sleep(0.05)\n"
        "    return {question.id: question.answers[0] for question in dataset.questions}\n"
        "run(arguments('test').parse_args(), lambda: answer)\n"
    )
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("runtime", "tests/peers"))
    done = subprocess.run(
        [sys.executable, "-c", code, "model", str(sample_squad_path()), "--questions", "20", "--threads", "1"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    record = json.loads(done.stdout)
    assert (record["exact_match"], record["f1"], record["questions"]) == (100, 100, 20)
    assert 0.05 <= record["seconds"] < record["seconds"] + record["warm_up_seconds"] < 60
    assert record["versions"]["numpy"]
