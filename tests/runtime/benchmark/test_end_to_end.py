"""SQuAD end to end on sessions that sleep: times, counts, shares and ratios must come out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from densepack_runtime.benchmark import end_to_end as benchmark_squad
from densepack_runtime.benchmark.end_to_end import WARMUP_QUESTIONS, measure_squad, squad_steps
from densepack_runtime.benchmark.sides import Settings, Side, Texts
from densepack_runtime.benchmark.tables import ratio_table, squad_table
from densepack_runtime.errors import InputError, ParityError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import SquadDataset, read_squad, sample_squad_path, score_predictions
from densepack_runtime.sessions.session import Batch, Logits
from densepack_runtime.structure import Cost
from tests.sleeping_session import Clock, SleepingSession

QUESTIONS = 8
ROUNDS = 3
READING = 0.25  # seconds that reading the file takes here
PEAK = 100.0  # GFLOP/s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock.installed(monkeypatch)

    def reading(path: Path, limit: int | None = None) -> SquadDataset:
        clock.sleep(READING)
        return read_squad(path, limit=limit)

    monkeypatch.setattr(benchmark_squad, "read_squad", reading)
    return clock


@pytest.fixture(scope="module")
def texts(default_tokenizer_json: str) -> Texts:
    return Texts(default_tokenizer_json)


def make_side(name: str, seconds_per_token: float, texts: Texts | None, per_token: int = 1000) -> Side:
    return Side(name, SleepingSession(name, seconds_per_token), Cost(per_token, 1), texts=texts)


def test_times_counts_and_ratios_of_known_sessions(texts: Texts) -> None:
    settings = Settings(rounds=ROUNDS, settle_ms=0)
    sides = [make_side("slow", 1.5e-4, texts, per_token=4000), make_side("fast", 5e-5, texts)]
    told: list[str] = []
    section = measure_squad(
        sides, sample_squad_path(), limit=QUESTIONS, settings=settings, peak=PEAK, on_step=told.append
    )
    assert (section["file"], section["questions"]) == ("sample_squad.json", QUESTIONS)
    assert len(told) == squad_steps(2, settings)
    slow, fast = section["sides"]
    assert 0 < slow["tokens"] <= slow["padded_tokens"]
    assert slow["model_s"] == pytest.approx(1.5e-4 * slow["padded_tokens"])
    assert slow["median_s"] == pytest.approx(slow["model_s"] + READING)
    assert slow["outside_share"] == pytest.approx(READING / slow["median_s"])
    assert slow["questions_per_s"] == pytest.approx(QUESTIONS / slow["median_s"])
    assert slow["tokens_per_s"] == pytest.approx(slow["tokens"] / slow["median_s"])
    assert slow["share_of_peak"] == pytest.approx(slow["gflops"] / PEAK)
    assert len(slow["samples_s"]) == ROUNDS
    [ratio] = section["ratios"]
    assert ratio["median"] == pytest.approx(slow["median_s"] / fast["median_s"])
    assert slow["model_s"] == pytest.approx(3 * fast["model_s"])
    assert 3 < ratio["flop_limit"] < 4  # 4 in the linear layers, 1 in attention
    assert fast["exact_match"] == slow["exact_match"]
    document = json.loads(json.dumps({"squad": section}))
    for columns, rows in (squad_table(document), ratio_table(document)):
        assert rows
        assert all(len(row) == len(columns) for row in rows)


def test_scores_are_those_of_the_question_answerer(texts: Texts) -> None:
    side = make_side("only", 0, texts)
    section = measure_squad([side], sample_squad_path(), settings=Settings(rounds=1, settle_ms=0), peak=PEAK)
    dataset = read_squad(sample_squad_path())
    score = score_predictions(dataset, QuestionAnswerer(side.session, texts.windower()).predict(dataset))
    [row] = section["sides"]
    assert (row["exact_match"], row["f1"], section["questions"]) == (score.exact_match, score.f1, score.count)
    assert score.f1 > 0


class ChangingSession(SleepingSession):
    """Turns its logits around once it has answered `after` batches."""

    after = 10**9
    calls = 0

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        for batch in batches:
            self.calls += 1
            logits = self.run(batch)
            yield logits if self.calls <= self.after else Logits(-logits.start, -logits.end)


def test_other_answers_in_another_round_are_an_error(texts: Texts) -> None:
    session = ChangingSession("changing", 0)
    side = Side("changing", session, Cost(1, 0), texts=texts)
    settings = Settings(rounds=2, settle_ms=0)
    dataset = read_squad(sample_squad_path())
    batches_warm = _batches(texts, WARMUP_QUESTIONS)
    session.after = batches_warm + _batches(texts, len(dataset.questions))
    with pytest.raises(ParityError, match="changing does not answer alike each time"):
        measure_squad([side], sample_squad_path(), settings=settings, peak=PEAK)


def _batches(texts: Texts, questions: int) -> int:
    counting = SleepingSession("counting", 0)
    QuestionAnswerer(counting, texts.windower()).predict(read_squad(sample_squad_path(), limit=questions))
    return len(counting.log)


def test_a_side_without_tokenizer_is_an_error() -> None:
    with pytest.raises(InputError, match="silent has no tokenizer.*pass --tokenizer"):
        measure_squad([make_side("silent", 0, None)], sample_squad_path(), settings=Settings(), peak=PEAK)


def test_a_missing_file_is_an_error(texts: Texts, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        measure_squad([make_side("one", 0, texts)], tmp_path / "none.json", settings=Settings(), peak=PEAK)
