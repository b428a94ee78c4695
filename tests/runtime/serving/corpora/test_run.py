"""What a job does when its input is not what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.corpora.answering import answer_task
from densepack_runtime.serving.corpora.out_folder import OutFolder
from densepack_runtime.serving.corpora.plan import Asked, plan_of
from densepack_runtime.sessions.fake_session import FakeSession

LINE = '{"question": "who ?", "context": "she"}\n'


def test_a_file_that_shrinks_under_the_job_is_an_error(tmp_path: Path, default_tokenizer_json: str) -> None:
    given, out = tmp_path / "in.jsonl", tmp_path / "out"
    given.write_text(LINE * 3, encoding="utf-8")
    [task] = plan_of(str(given), out, Asked()).tasks
    given.write_text(LINE, encoding="utf-8")
    answerer = QuestionAnswerer(FakeSession(), Windower(default_tokenizer_json))
    with pytest.raises(InputError, match=r"in\.jsonl has changed since it was cut into parts"):
        answer_task(answerer, task, OutFolder(out), Asked(), lambda rows: None)
    assert not out.exists()
    given.write_text(LINE * 3, encoding="utf-8")
    advanced: list[int] = []
    answer_task(answerer, task, OutFolder(out), Asked(), advanced.append)
    assert (sum(advanced), len((out / task.name).read_text("utf-8").splitlines())) == (3, 3)


def test_a_file_is_one_by_whatever_links_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(LINE, encoding="utf-8")
    (tmp_path / "in" / "b.jsonl").symlink_to("a.jsonl")
    assert [file.name for file in plan_of(str(tmp_path / "in"), tmp_path / "out", Asked()).files] == ["a.jsonl"]
