"""SQuAD as training windows: token ids and the positions of the answer, made once and kept on disk.

Windows are those of the runtime. A window that does not hold the whole answer, and a question without one (SQuAD 2),
has both positions at [CLS].

    windows = TrainingWindows.load_or_make(dataset, tokenizer_json, cache, max_length=384, doc_stride=128)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densepack_models.pruning.options import BadAnswers
from densepack_runtime.errors import InputError
from densepack_runtime.host.files import new_file
from densepack_runtime.question_answering.squad import SquadDataset, SquadQuestion
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.session import Window

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class DroppedQuestion:
    """A question that cannot be trained on, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingWindows:
    """All windows of a data set, one after the other.

    `token_ids` int32 [total]; window i has those from `offsets[i]` to `offsets[i + 1]` (int64 [n + 1]), of which the
    first `context_start[i]` have token type 0. `start` and `end` int32 [n] are the answer's first and last token. `key`
    names the data, the tokenizer and the lengths they were made with.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    context_start: NDArray[np.int32]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    key: str
    pad_id: int
    questions: int
    dropped: tuple[DroppedQuestion, ...]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every window, [n]."""
        return np.diff(self.offsets)

    @classmethod
    def load_or_make(
        cls,
        dataset: SquadDataset,
        tokenizer_json: str,
        cache: Path,
        *,
        max_length: int,
        doc_stride: int,
        bad_answers: BadAnswers = "drop",
        answered: bool = True,
    ) -> TrainingWindows:
        """The windows from the cache folder, or made now and stored there.

        Raises InputError when no question has an answer although they need to be `answered`, and with `bad_answers`
        "refuse" when one cannot be used.
        """
        key = windows_key(dataset, tokenizer_json, max_length, doc_stride)
        path = cache / f"windows-{key}.npz"
        windows = _read(path, key)
        if windows is None:
            if answered and not any(question.answers for question in dataset.questions):
                raise InputError("the training data has no answers: nothing can be learnt from it; take a training set")
            windower = Windower(tokenizer_json, max_length=max_length, doc_stride=doc_stride)
            windows = make_windows(dataset.questions, windower, key, answered=answered)
            if not len(windows):
                raise InputError(f"no question of the training data can be used; {describe_dropped(windows.dropped)}")
            _write(path, windows)
        if windows.dropped and bad_answers == "refuse":
            raise InputError(
                f"{len(windows.dropped)} of {windows.questions} questions cannot be trained on; "
                f"{describe_dropped(windows.dropped)}. Mend the data, or drop them: --bad-answers drop"
            )
        return windows


def windows_key(dataset: SquadDataset, tokenizer_json: str, max_length: int, doc_stride: int) -> str:
    """Names what the windows depend on, 16 hex digits."""
    parts = [_FORMAT, dataset.sha256, len(dataset.questions), tokenizer_json, max_length, doc_stride]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def describe_dropped(dropped: Sequence[DroppedQuestion], shown: int = 3) -> str:
    """The first few, in words."""
    first = "; ".join(f"{question.id!r}: {question.reason}" for question in dropped[:shown])
    return f"the first of them: {first}" if len(dropped) > shown else first


def make_windows(
    questions: Iterable[SquadQuestion], windower: Windower, key: str = "", *, answered: bool = True
) -> TrainingWindows:
    """Windows of all questions that can be used; the others are listed in `dropped`. Where they need not be `answered`,
    one without an answer is used as well.
    """
    usable, dropped, total = [], [], 0
    for question in questions:
        total += 1
        reason = answer_fault(question) if answered or question.answers else None
        if reason is None:
            usable.append(question)
        else:
            dropped.append(DroppedQuestion(question.id, reason))
    windows: list[Window] = []
    positions: list[tuple[int, int]] = []
    pairs = ((question.question, question.context) for question in usable)
    for question, found in zip(usable, windower.windows_or_errors(pairs), strict=True):
        if isinstance(found, InputError):
            dropped.append(DroppedQuestion(question.id, str(found)))
            continue
        windows += found
        positions += [answer_positions(window, question) for window in found]
    places = np.array(positions, dtype=np.int32).reshape(-1, 2)
    return TrainingWindows(
        token_ids=np.concatenate([window.token_ids for window in windows]) if windows else np.zeros(0, dtype=np.int32),
        offsets=np.cumsum([0, *(window.length for window in windows)], dtype=np.int64),
        context_start=np.array([window.context_start for window in windows], dtype=np.int32),
        start=places[:, 0],
        end=places[:, 1],
        key=key,
        pad_id=windower.pad_id,
        questions=total,
        dropped=tuple(dropped),
    )


def answer_fault(question: SquadQuestion) -> str | None:
    """Why the first answer of a question cannot be trained on; None when it can."""
    if not question.answers:
        return None if question.is_impossible else "it has no answer and is not marked as impossible"
    text, start = question.answers[0], question.answer_starts[0]
    if not text:
        return "its answer is empty"
    found = question.context[max(start, 0) : max(start, 0) + len(text)]
    if start < 0 or found != text:
        return f"its answer {text[:40]!r} is not at character {start} of the context, there is {found[:40]!r}"
    return None


def answer_positions(window: Window, question: SquadQuestion) -> tuple[int, int]:
    """First and last token of the answer in a window, or (0, 0), which is [CLS]."""
    if not question.answers:
        return 0, 0
    first, last = question.answer_starts[0], question.answer_starts[0] + len(question.answers[0])
    starts, ends = window.offsets[:, 0], window.offsets[:, 1]
    if first < starts[0] or last > ends[-1]:
        return 0, 0
    start = int(np.searchsorted(starts, first, side="right")) - 1
    end = int(np.searchsorted(ends, last, side="left"))
    return (window.context_start + start, window.context_start + end) if start <= end else (0, 0)


def _write(path: Path, windows: TrainingWindows) -> None:
    facts = {
        "key": windows.key,
        "pad_id": windows.pad_id,
        "questions": windows.questions,
        "dropped": [asdict(question) for question in windows.dropped],
    }
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            token_ids=windows.token_ids,
            offsets=windows.offsets,
            context_start=windows.context_start,
            start=windows.start,
            end=windows.end,
            facts=np.array(json.dumps(facts)),
        )


def _read(path: Path, key: str) -> TrainingWindows | None:
    """The stored windows; None when they are not there, damaged or others."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            facts = json.loads(str(stored["facts"]))
            if facts["key"] != key:
                return None
            return TrainingWindows(
                **{name: stored[name] for name in ("token_ids", "offsets", "context_start", "start", "end")},
                key=key,
                pad_id=facts["pad_id"],
                questions=facts["questions"],
                dropped=tuple(DroppedQuestion(**entry) for entry in facts["dropped"]),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
