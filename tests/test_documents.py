"""Tables in the documents are those that the result files make, and the comparison with the peers counts rightly."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import ModelCard

from densepack_runtime.question_answering.squad import sample_squad_path
from tests.conftest import REPOSITORY, TINY_BUNDLE


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
    return regenerate._script("compare")  # type: ignore[no-any-return]


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
    monkeypatch.setattr(regenerate, "PICTURES", {})
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


def test_comparisons_do_not_mix(compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set and choice of settings has a document of its own, and goes on in none but that."""
    squad = tmp_path / "dev.json"
    squad.touch()

    def options(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path), str(squad), "--peers", "python", *arguments])
        return compare._options()

    asked = options("--rounds", "3")
    assert asked.out == tmp_path / "dev-1000-questions-3-rounds-2-threads.json"
    assert options("--rounds", "1").out != asked.out
    begun = compare._document(asked)
    assert begun["runs"] == []
    asked.out.write_text(json.dumps(begun | {"runs": [{"round": 0}]}), encoding="utf-8")
    assert compare._document(asked)["runs"] == [{"round": 0}]
    with pytest.raises(SystemExit, match="was begun with .*'rounds': 3.*name another --out, or remove it"):
        compare._document(options("--rounds", "1", "--out", str(asked.out)))


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


def test_a_stage_inside_another_stops_its_clock(regenerate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = regenerate._script("profile_eval")
    now = [0.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> None:
        now[0] += seconds

    def batches() -> Iterator[int]:
        for number in range(3):
            takes(1)
            yield number

    def model(source: Iterator[int]) -> Iterator[int]:
        for number in source:
            takes(10)
            yield number

    stages = profile.Stages()
    takes(100)
    computed = stages.iterated("model", model)(stages.iterated("batch", batches)())
    assert list(computed) == [0, 1, 2]
    stages.timed("score", takes)(7)
    stages.tick()
    assert stages.seconds == {profile.REST: 100, "batch": 3, "model": 30, "score": 7}


@pytest.mark.parametrize(
    ("script", "asked", "row"),
    [
        ("profile_eval", [sample_squad_path(), "--questions", "3"], "| model |"),
        ("profile_kernels", ["--batch", "2", "--length", "16"], "| FullyConnected |"),
    ],
)
def test_profiles_run(script: str, asked: list[Any], row: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'densepack[openvino]'")
    options = [*map(str, asked), "--precisions", "fp32", "--rounds", "1", "--threads", "1", "--out", "profile.json"]
    command = [sys.executable, str(REPOSITORY / "tests" / "peers" / f"{script}.py"), str(TINY_BUNDLE), *options]
    given = {**os.environ, "DENSEPACK_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120, check=True)
    assert row in done.stdout
    assert json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))["settings"]["rounds"] == 1


def test_small_kernels_are_told_together(regenerate: ModuleType) -> None:
    profile = regenerate._script("profile_kernels")
    runs = [
        {"precision": precision, "ms": {"Product": product + shift, "Sum": 10.0, "Tiny": 0.1}}
        for precision, product in (("fp32", 90.0), ("int8", 10.0))
        for shift in (-5.0, 0.0, 50.0)
    ]
    assert profile.table({"runs": runs}).splitlines()[2:] == [
        "| Product | 90.0 (89.9%) | 10.0 (49.8%) |",
        "| Sum | 10.0 (10.0%) | 10.0 (49.8%) |",
        "| everything else | 0.1 (0.1%) | 0.1 (0.5%) |",
        "| all | 100.1 | 20.1 |",
    ]


def test_the_card_of_the_default_checkpoint_has_the_scores_of_the_tables(regenerate: ModuleType) -> None:
    card = ModelCard.load(REPOSITORY / "models" / "checkpoints" / "default" / "README.md")
    told = {found.metric_type: found.metric_value for found in card.data.eval_results or []}
    scores = regenerate.result("eval_default")
    assert told == {name: scores[name] for name in ("exact_match", "f1")}
