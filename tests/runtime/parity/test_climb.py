"""The gate: what passes, what closes it, and what is reported. Sessions here are functions of the tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densepack_runtime.errors import BundleError, InputError
from densepack_runtime.parity.climb import ParityRun, Rung, climb
from densepack_runtime.parity.judgement import SpanComparison, default_tolerance, judge
from densepack_runtime.parity.recorded_reference import RecordedReference, ReferenceRecorder, stratified_windows
from densepack_runtime.parity.report import ParityReport, RungReport, parity_entry
from densepack_runtime.parity.tables import PARITY_COLUMNS, WORST_COLUMNS, parity_rows, worst_rows
from densepack_runtime.parity.tally import LogitDifference
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path, score_predictions
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.session import Batch, Logits, Precision, SessionBase

Change = Callable[[Batch, Logits], Logits]


NO_DIFFERENCE = LogitDifference(0.0, 0.0, 0.0)


class TokenSession(SessionBase):
    """Logits that depend on token and position alone, the same in every batch: a deterministic stand-in for a model."""

    def __init__(self, change: Change = lambda _, logits: logits) -> None:
        self.change = change

    def run(self, batch: Batch) -> Logits:
        position = np.arange(batch.shape[1])
        start = np.sin(batch.input_ids * 12.9898 + position * 0.7) * 5
        end = np.sin(batch.input_ids * 78.233 + position * 0.3) * 5
        return self.change(batch, Logits(start.astype(np.float32), end.astype(np.float32)))

    def close(self) -> None:
        pass


def shifted(amount: float) -> Change:
    return lambda _, logits: Logits(logits.start + np.float32(amount), logits.end)


def swapped(_: Batch, logits: Logits) -> Logits:
    return Logits(logits.end, logits.start)


def one_nan(batch: Batch, logits: Logits) -> Logits:
    start = logits.start.copy()
    for row, window in enumerate(batch.windows):
        if window.example == 0:
            start[row, 1] = np.nan  # in the question, where it changes no answer
    return Logits(start, logits.end)


@pytest.fixture(scope="module")
def run(default_tokenizer_json: str) -> ParityRun:
    return ParityRun.of(Windower(default_tokenizer_json), read_squad(sample_squad_path()), "sample")


def climbed(run: ParityRun, change: Change, precision: Precision) -> RungReport:
    report = climb(run, [Rung("reference", TokenSession()), Rung("rung", TokenSession(change), precision)])
    return report.rungs[1]


def test_an_equal_rung_passes(run: ParityRun) -> None:
    rung = climbed(run, lambda _, logits: logits, "fp32")
    assert rung.status == "passed"
    assert (rung.max_abs_logit, rung.span_agreement, rung.f1_drop) == (0, 100, 0)
    assert rung.windows == len(run.windows)


def test_scores_are_those_of_the_question_answerer(run: ParityRun, default_tokenizer_json: str) -> None:
    answerer = QuestionAnswerer(TokenSession(), Windower(default_tokenizer_json))
    expected = score_predictions(run.dataset, answerer.predict(run.dataset))
    report = climb(run, [Rung("reference", TokenSession()), Rung("same", TokenSession())])
    for rung in report.rungs:
        assert (rung.exact_match, rung.f1) == (expected.exact_match, expected.f1)


@pytest.mark.parametrize(("amount", "status"), [(9e-4, "passed"), (2e-3, "failed")])
def test_fp32_rungs_are_judged_by_logits(run: ParityRun, amount: float, status: str) -> None:
    rung = climbed(run, shifted(amount), "fp32")
    assert rung.status == status
    assert rung.max_abs_logit == pytest.approx(amount, rel=1e-2)
    assert rung.mean_abs_logit == pytest.approx(amount / 2, rel=1e-2)  # the end logits did not move
    if status == "failed":
        assert "largest |Δlogit|" in rung.failures[0]


def test_fp16_rungs_are_judged_by_answers(run: ParityRun) -> None:
    assert climbed(run, shifted(0.5), "fp16").status == "passed"
    rung = climbed(run, swapped, "fp16")
    assert rung.status == "failed"
    assert "same best span" in rung.failures[0]
    assert rung.worst[0].answer != rung.worst[0].reference_answer


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_nan_closes_the_gate(run: ParityRun, precision: Precision) -> None:
    rung = climbed(run, one_nan, precision)
    assert rung.status == "failed"
    assert "not finite" in rung.failures[0]


def test_a_differing_span_that_is_no_near_tie_closes_the_fp32_gate(run: ParityRun) -> None:
    """A rung may be within the logit limit at most positions and still answer otherwise: then the margin tells."""

    def another_answer(batch: Batch, logits: Logits) -> Logits:
        return swapped(batch, logits)

    rung = climbed(run, another_answer, "fp32")
    assert rung.differing_spans > 0
    assert any("Δlogit" in failure for failure in rung.failures)


def test_padding_changes_nothing_that_is_compared(run: ParityRun) -> None:
    def garbage_under_padding(batch: Batch, logits: Logits) -> Logits:
        real = batch.attention_mask.astype(bool)
        return Logits(np.where(real, logits.start, 1e9).astype(np.float32), np.where(real, logits.end, np.nan))

    rung = climbed(run, garbage_under_padding, "fp32")
    assert (rung.status, rung.max_abs_logit) == ("passed", 0)


def test_a_plan_that_cannot_run_is_never_passed(run: ParityRun) -> None:
    report = climb(run, [Rung("reference", TokenSession()), Rung("plan", None, "fp16", "built, not run")])
    assert report.rungs[1].status == "not run"
    assert report.failures == []
    assert not report.passed, "nothing was compared"
    [_, row] = parity_rows(report)
    assert row[:2] == ("plan", "built, not run")


def test_the_report_is_json_and_a_table(run: ParityRun) -> None:
    report = climb(run, [Rung("reference", TokenSession()), Rung("rung", TokenSession(swapped), "fp16")])
    document = json.loads(json.dumps(report.as_dict()))
    assert document["passed"] is False
    assert document["rungs"][1]["failures"]
    assert all(len(row) == len(PARITY_COLUMNS) for row in parity_rows(report))
    worst = worst_rows(report)
    assert len(worst) == 5
    assert all(len(row) == len(WORST_COLUMNS) and row[2] != row[3] for row in worst)
    entry = parity_entry(report)
    assert (entry.checked, entry.passed, entry.questions) == (True, False, len(run.dataset.questions))
    assert entry.summary.startswith("0 of 1 rungs")


@pytest.mark.parametrize(
    ("questions", "drop", "agreement"), [(10570, 0.2, 99.0), (100, 1.0, 99.0), (50, 2.0, 98.0), (7, 100 / 7, 600 / 7)]
)
def test_with_few_questions_one_may_change(questions: int, drop: float, agreement: float) -> None:
    limits = default_tolerance("fp16", questions)
    assert limits.max_f1_drop == limits.max_em_drop == pytest.approx(drop)
    assert limits.min_span_agreement == pytest.approx(agreement)


@pytest.mark.parametrize("questions", range(1, 400))
def test_one_changed_answer_passes_whatever_its_share_rounds_to(questions: int) -> None:
    """88 of 89 in floating point is less than 100 - 100 / 89."""
    share = 1 - np.eye(1, questions).mean()
    drop = 100 - 100 * share
    one = SpanComparison(questions, share * 100, f1_drop=drop, exact_match_drop=drop)
    limits = default_tolerance("fp16", questions)
    assert judge("one", "fp16", NO_DIFFERENCE, one, limits).failures == ()
    if questions < 200:
        two = replace(one, span_agreement=100 - 2 * drop, f1_drop=2 * drop)
        assert len(judge("two", "fp16", NO_DIFFERENCE, two, limits).failures) == 2 if questions < 199 else 1


def test_nothing_to_compare_is_an_error(run: ParityRun) -> None:
    with pytest.raises(InputError, match="needs a reference"):
        climb(run, [])
    with pytest.raises(InputError, match="0 windows"):
        climb(replace(run, windows=[]), [Rung("reference", TokenSession())])


# --- the recorded reference -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(run: ParityRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recorder = ReferenceRecorder(run.windows, run.dataset)
    climb(run, [Rung("reference", TokenSession())], on_reference=recorder)
    path = tmp_path_factory.mktemp("recorded") / "reference.npz"
    recorder.save(path)
    return path


def compared(recorded: Path, run: ParityRun, change: Change, precision: Precision) -> ParityReport:
    return RecordedReference.load(recorded).compare(run, [Rung("rung", TokenSession(change), precision)])


def test_recorded_reference_stands_in_for_pytorch(recorded: Path, run: ParityRun) -> None:
    report = compared(recorded, run, lambda _, logits: logits, "fp32")
    assert report.passed
    assert report.rungs[1].max_abs_logit == 0
    assert report.rungs[1].span_agreement == 100
    assert report.rungs[0].f1 == report.rungs[1].f1


@pytest.mark.parametrize(("change", "precision"), [(shifted(2e-3), "fp32"), (swapped, "fp16")])
def test_recorded_reference_closes_the_gate(
    recorded: Path, run: ParityRun, change: Change, precision: Precision
) -> None:
    assert not compared(recorded, run, change, precision).passed


def test_recorded_windows_are_spread_over_all_lengths(recorded: Path, run: ParityRun) -> None:
    windows = RecordedReference.load(recorded).windows
    assert len(windows) == min(256, len(run.windows))
    lengths = [window.length for window in run.windows]
    assert min(window.length for window in windows) == min(lengths)
    assert max(window.length for window in windows) == max(lengths)
    assert len(stratified_windows(run.windows, 10)) == 10


def test_recorded_reference_is_for_one_file_only(recorded: Path, run: ParityRun) -> None:
    other = replace(run, dataset=replace(run.dataset, sha256="ff" * 32))
    with pytest.raises(InputError, match="another SQuAD file.*--checkpoint"):
        compared(recorded, other, swapped, "fp16")


def test_a_damaged_recording_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "reference.npz").write_bytes(b"not a zip")
    with pytest.raises(BundleError, match="cannot be read"):
        RecordedReference.load(tmp_path / "reference.npz")


# --- SQuAD 2 --------------------------------------------------------------------------------------------------------


def null_at(score: float) -> Change:
    """Every window gives no answer this score."""

    def change(_: Batch, logits: Logits) -> Logits:
        start, end = logits.start.copy(), logits.end.copy()
        start[:, 0] = end[:, 0] = score / 2
        return Logits(start, end)

    return change


@pytest.fixture(scope="module")
def windower(default_tokenizer_json: str) -> Windower:
    """Short windows: a question has several, and the smallest of their null scores counts."""
    return Windower(default_tokenizer_json, max_length=96, doc_stride=32)


@pytest.fixture(scope="module")
def second(windower: Windower) -> ParityRun:
    """Every third question is impossible."""
    sample = read_squad(sample_squad_path(), limit=60)
    questions = tuple(
        replace(question, answers=(), answer_starts=(), is_impossible=True) if place % 3 == 0 else question
        for place, question in enumerate(sample.questions)
    )
    return ParityRun.of(windower, replace(sample, version="v2.0", questions=questions), "v2")


# The middle of what the best spans of these questions score.
MIDDLE = 9.9975


@pytest.mark.parametrize("null_score", [-20.0, MIDDLE, 20.0])
def test_null_answers_count_as_they_do_for_the_question_answerer(
    second: ParityRun, windower: Windower, tmp_path: Path, null_score: float
) -> None:
    session = TokenSession(null_at(null_score))
    predictions = QuestionAnswerer(session, windower).predict(second.dataset)
    empty = sum(not text for text in predictions.values())
    assert empty == {-20.0: 0, 20.0: 60}.get(null_score, empty)
    assert null_score != MIDDLE or 10 < empty < 50
    expected = score_predictions(second.dataset, predictions)
    recorder = ReferenceRecorder(second.windows, second.dataset)
    climbed = climb(second, [Rung("reference", session), Rung("same", session)], on_reference=recorder)
    recorder.save(tmp_path / "reference.npz")
    recording = RecordedReference.load(tmp_path / "reference.npz").compare(second, [Rung("same", session)])
    for report in (climbed, recording):
        assert report.passed
        for rung in report.rungs:
            assert (rung.exact_match, rung.f1) == (expected.exact_match, expected.f1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("wrong", [-20.0, 20.0])
def test_a_rung_that_never_or_always_finds_no_answer_closes_the_gate(
    second: ParityRun, tmp_path: Path, wrong: float, precision: Precision
) -> None:
    reference, rung = TokenSession(null_at(MIDDLE)), Rung("rung", TokenSession(null_at(wrong)), precision)
    recorder = ReferenceRecorder(second.windows, second.dataset)
    climbed = climb(second, [Rung("reference", reference), rung], on_reference=recorder)
    recorder.save(tmp_path / "reference.npz")
    recording = RecordedReference.load(tmp_path / "reference.npz").compare(second, [rung])
    for report in (climbed, recording):
        assert report.rungs[1].status == "failed"
        assert 10 < report.rungs[1].differing_spans < 50
    assert "(no answer)" in str(worst_rows(climbed))


def test_null_scores_that_are_not_finite_close_the_gate_beyond_the_recorded_windows(
    second: ParityRun, tmp_path: Path
) -> None:
    """The reference finds no answer, and infinity seems to say the same; `densepack eval` refuses such logits."""
    recorder = ReferenceRecorder(second.windows, second.dataset)
    climb(second, [Rung("reference", TokenSession(null_at(20.0)))], on_reference=recorder)
    recorder.chosen = recorder.chosen[:1]
    recorder.save(tmp_path / "reference.npz")

    def change(batch: Batch, logits: Logits) -> Logits:
        return null_at(20.0 if len(batch.windows) == 1 else np.nan)(batch, logits)

    rung = Rung("rung", TokenSession(change), "fp16")
    report = RecordedReference.load(tmp_path / "reference.npz").compare(second, [rung])
    assert report.rungs[1].failures[0] == "some logits are not finite"


def test_a_recording_without_null_answers_is_refused_for_squad_2_only(
    second: ParityRun, recorded: Path, run: ParityRun, tmp_path: Path
) -> None:
    """As bundles of earlier versions have it."""
    recorder = ReferenceRecorder(second.windows, second.dataset)
    climb(second, [Rung("reference", TokenSession())], on_reference=recorder)
    recorder.save(tmp_path / "second.npz")
    old = []
    for path in (tmp_path / "second.npz", recorded):
        with np.load(path) as data:
            np.savez(tmp_path / "old.npz", **{name: data[name] for name in data if name != "null_scores"})
        old.append(RecordedReference.load(tmp_path / "old.npz"))
    with pytest.raises(InputError, match=r"knows no null answers, .*: build the bundle again"):
        old[0].compare(second, [Rung("rung", TokenSession())])
    assert old[1].compare(run, [Rung("rung", TokenSession())]).passed


def test_a_report_survives_its_json(run: ParityRun) -> None:
    rungs = [Rung("reference", TokenSession()), Rung("rung", TokenSession(swapped), "fp16"), Rung("plan", None, "fp16")]
    report = climb(run, rungs)
    assert ParityReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_other_documents_are_no_parity_reports() -> None:
    with pytest.raises(InputError, match="of kind 'x' and schema None cannot be read"):
        ParityReport.from_dict({"kind": "x"})
    with pytest.raises(InputError, match="cannot be read .*missing required field `squad_name`"):
        ParityReport.from_dict({"kind": "densepack parity", "schema": 1})
