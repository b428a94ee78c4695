"""How cost grows, on sessions that sleep; and that a fresh process has the memory of its own work alone."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from densepack_runtime.benchmark.growth import (
    GrowthPlan,
    GrowthPoint,
    growth_steps,
    measure_growth,
    measure_point,
    synthetic_pairs,
    whole_words,
)
from densepack_runtime.benchmark.memory import measure_memory
from densepack_runtime.benchmark.sides import Cell, Side, Texts
from densepack_runtime.benchmark.tables import growth_table
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.fresh_process import in_fresh_process
from densepack_runtime.host.machine import peak_resident_mib
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, Session
from densepack_runtime.structure import Cost
from tests.sleeping_session import OpenSleeping, SleepingSession

SECONDS_PER_TOKEN = 2e-4
ARRAY_MIB = 256
# Three pools of questions, of which one at a time is held: 2.4 MiB, and 9,000 questions took the same. A batch has at
# most 64 windows, so that a leak of 256 KiB each comes to 11 MiB.
QUESTIONS, FLAT_MIB = 3_000, 5


@pytest.fixture(scope="module")
def side(default_tokenizer_json: str) -> Side:
    return Side(
        "sleeper",
        SleepingSession("sleeper", 0),
        Cost(1, 0),
        texts=Texts(default_tokenizer_json),
        open_again=OpenSleeping(SECONDS_PER_TOKEN),
    )


def test_a_row_for_every_point(side: Side) -> None:
    plan = GrowthPlan(questions=(4,), context_words=(300,), threads=(2,))
    told: list[str] = []
    rows = measure_growth([side], plan, options=SessionOptions(threads=1), on_step=told.append)
    assert len(told) == growth_steps(1, plan) == len(rows) == 3
    assert [(row["axis"], row["value"], row["threads"]) for row in rows] == [
        ("questions", 4, 1),
        ("context_words", 300, 1),
        ("threads", 2, 2),
    ]
    questions, words, threads = rows
    # A word is a token: 10 of the question and its mark, 124 of the context, 3 special ones.
    assert (questions["windows"], questions["tokens"]) == (4, 4 * (11 + 124 + 3))
    assert (words["windows"], words["tokens"]) == (1, 11 + 300 + 3)
    for row, threads_used in ((questions, 1), (words, 1), (threads, 2)):
        assert row["seconds"] >= row["padded_tokens"] * SECONDS_PER_TOKEN * threads_used
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["ready_rss_mib"] <= row["peak_rss_mib"]
    columns, table = growth_table(json.loads(json.dumps({"growth": rows})))
    assert all(len(row) == len(columns) for row in table)


def test_short_points_are_repeated(side: Side) -> None:
    assert side.texts is not None
    point = GrowthPoint("questions", 1, 10, 1)
    assert len(measure_point(OpenSleeping(0), side.texts, point, seed=0)["samples_s"]) == 3


def test_a_long_context_becomes_windows(side: Side) -> None:
    assert side.texts is not None
    measured = measure_point(OpenSleeping(0), side.texts, GrowthPoint("context_words", 1, 1000, 1), seed=0)
    assert measured["windows"] == 1 + -(-(1000 - 370) // (370 - 128))  # 384 less question and special tokens: 370


def test_synthetic_questions_are_the_same_for_a_seed(default_tokenizer_json: str) -> None:
    words = whole_words(default_tokenizer_json)
    first, again, other = (list(synthetic_pairs(words, 3, 20, seed)) for seed in (0, 0, 1))
    assert first == again != other
    question, context = first[0]
    assert question.endswith("?")
    assert len(question.split()) == 10
    assert set(context.split()) <= set(words)
    assert len(context.split()) == 20


def test_a_vocabulary_without_words_is_an_error() -> None:
    with pytest.raises(InputError, match="no whole words"):
        whole_words('{"model": {"vocab": {"[CLS]": 0, "a": 1, "##ing": 2}}}')


def test_a_side_that_cannot_be_opened_again_is_an_error(side: Side) -> None:
    closed = replace(side, open_again=None)
    with pytest.raises(InputError, match="sleeper cannot be measured in a fresh process"):
        measure_growth([closed], GrowthPlan(questions=(1,), context_words=(), threads=()))
    with pytest.raises(InputError, match="sleeper cannot be opened in another process"):
        measure_memory([closed], [Cell(1, 1)])


# --- fresh processes -------------------------------------------------------------------------------------------------


def hold(mebibytes: int) -> float | None:
    """The peak of this process once it has held so much."""
    array = np.ones(mebibytes * 2**17)
    return peak_resident_mib() if array.any() else None


def test_memory_is_that_of_the_fresh_process_alone() -> None:
    held = np.ones(2 * ARRAY_MIB * 2**17)  # what a fork, and ru_maxrss, would count
    small, large = in_fresh_process(hold, 1), in_fresh_process(hold, ARRAY_MIB)
    if small is None or large is None:
        pytest.skip("this system does not tell how much memory of a process is in RAM")
    assert held.any()
    assert small < ARRAY_MIB
    assert large - small == pytest.approx(ARRAY_MIB, rel=0.1)


def test_memory_of_a_side(side: Side) -> None:
    found = measure_memory([side], [Cell(1, 8), Cell(2, 8)])["sleeper"]
    if found["peak_mib"] is None:
        pytest.skip("this system does not tell how much memory of a process is in RAM")
    assert found["ready_mib"] is not None
    assert 0 < found["ready_mib"] <= found["peak_mib"]


class LeakingSession(SleepingSession):
    """Keeps 256 KiB of every batch it sees."""

    kept: ClassVar[list[NDArray[np.float64]]] = []

    def run(self, batch: Batch) -> Logits:
        self.kept.append(np.ones(2**15))
        return super().run(batch)


def open_leaking(options: SessionOptions) -> Session:
    return LeakingSession("leaking", 0)


def test_memory_is_flat_in_the_number_of_questions_and_a_leak_shows(side: Side) -> None:
    assert side.texts is not None
    point = GrowthPoint("questions", QUESTIONS, 10, 1)
    grown = []
    for opener in (OpenSleeping(0), open_leaking):
        measured = in_fresh_process(measure_point, opener, side.texts, point, 0)
        if measured["peak_rss_mib"] is None:
            pytest.skip("this system does not tell how much memory of a process is in RAM")
        grown.append(measured["peak_rss_mib"] - measured["ready_rss_mib"])
    flat, leaking = grown
    assert flat < FLAT_MIB < leaking


def refuse() -> None:
    raise InputError("no, thank you")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_come_back_and_a_death_is_told() -> None:
    with pytest.raises(InputError, match="no, thank you"):
        in_fresh_process(refuse)
    with pytest.raises(BackendError, match=r"died before it was done \(SIGKILL\): was there too little memory"):
        in_fresh_process(die)
