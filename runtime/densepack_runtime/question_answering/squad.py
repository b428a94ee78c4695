"""SQuAD v1.1 and v2.0: reading, and the official exact match and F1.

    dataset = read_squad("dev-v1.1.json")
    score = score_predictions(dataset, {question_id: text, …})
    score.exact_match, score.f1                              # percent

The metric is that of the official evaluation scripts (https://rajpurkar.github.io/SQuAD-explorer/): texts are compared
without case, punctuation, articles and extra white space; F1 counts shared words; of several gold answers the best
counts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import string
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.question_answering.squad_forms import Node, StoredQuestion, document_of, questions_of

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """One question with its context and gold answers (none when it is impossible)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]
    is_impossible: bool = False


@dataclass(frozen=True, slots=True)
class SquadDataset:
    """A SQuAD file. `sha256` is that of the file's bytes, so that results can name what they were measured on."""

    version: str
    questions: tuple[SquadQuestion, ...]
    sha256: str

    @property
    def allows_no_answer(self) -> bool:
        """Whether this is SQuAD 2: by its version, or because a question is marked as impossible."""
        version = self.version.lower().removeprefix("v")
        return version.startswith("2") or any(question.is_impossible for question in self.questions)

    @property
    def is_test_set(self) -> bool:
        """Whether it says of no question what is right, so that predictions can be made and not scored."""
        return not any(question.answers or question.is_impossible for question in self.questions)


@dataclass(frozen=True, slots=True)
class ScorePart:
    """Exact match and F1 in percent over `count` questions."""

    exact_match: float
    f1: float
    count: int


@dataclass(frozen=True, slots=True)
class SquadScore:
    """Exact match and F1 in percent; for SQuAD 2 also over the questions with and without an answer.

    `failed` is how many of `count` could not be answered, and count as wrong; None where all were.
    """

    exact_match: float
    f1: float
    count: int
    has_answer: ScorePart | None = None
    no_answer: ScorePart | None = None
    failed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The parts that exist, for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def sample_squad_path() -> Path:
    """The embedded sample set: questions on paragraphs that the project wrote itself."""
    return Path(__file__).with_name("sample_squad.json")


def read_squad(path: str | Path, *, limit: int | None = None) -> SquadDataset:
    """Read SQuAD data in any of its forms (see squad_forms), .json, .jsonl or either .gz; `limit` reads the first
    questions only.

    Raises InputError that says where in the file something is wrong.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1 question, it is {limit}")
    path = Path(path)
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"the SQuAD file {path} cannot be read: {error}") from error
    try:
        document = document_of(text.decode(json.detect_encoding(text)))
        version = _version(document)
        questions = _questions(document, version, limit)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end
        raise InputError(f"the SQuAD file {path} is not JSON: {error}") from error
    if not questions:
        raise InputError(f"the SQuAD file {path} has no questions")
    _check_unique(path, questions)
    return SquadDataset(version=version, questions=questions, sha256=hashlib.sha256(raw).hexdigest())


def _version(document: list[Node] | Node) -> str:
    stored = document.value.get("version") if isinstance(document, Node) and isinstance(document.value, dict) else None
    return "" if stored is None else str(stored)


def _questions(document: list[Node] | Node, version: str, limit: int | None) -> tuple[SquadQuestion, ...]:
    """The first questions as they are asked.

    The hub's rows of SQuAD 2 do not say `is_impossible`. Where some of a file have answers, those without are; where
    none has, it is a test set.
    """
    squad2_rows = not version and any(stored.flat and stored.golds() for stored in questions_of(document))
    return tuple(
        _question(stored, unanswered_is_impossible=squad2_rows and stored.flat)
        for stored in islice(questions_of(document), limit)
    )


def _question(stored: StoredQuestion, *, unanswered_is_impossible: bool) -> SquadQuestion:
    golds, impossible = stored.golds(), stored.entry.child("is_impossible")
    said = unanswered_is_impossible and not golds if impossible.value is None else impossible.get(bool)
    return SquadQuestion(
        id=stored.place if stored.is_bare else _identity(stored.entry.child("id")),
        question=stored.entry.child("question").get(str),
        context=stored.context,
        answers=tuple(answer for answer, _ in golds),
        answer_starts=tuple(start for _, start in golds),
        is_impossible=said,
    )


def _identity(node: Node) -> str:
    """An id as predictions have it, as text. It has to be writable, which a lone surrogate is not."""
    identity = str(node.value) if type(node.value) is int else node.get(str)
    try:
        identity.encode()
    except UnicodeEncodeError as error:
        raise node.fault("valid Unicode") from error
    return identity


def _check_unique(path: Path, questions: Sequence[SquadQuestion]) -> None:
    repeated = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: {len(repeated)} question ids are used twice, the first is {repeated[0]!r:.60}")


@lru_cache(maxsize=64)  # a prediction is compared with each gold answer, twice
def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 when both texts are equal after normalisation, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1(prediction: str, gold: str) -> float:
    """F1 of the words of both texts, as in SQuAD v1.1: 0.0 when they share none, or one has none."""
    words, gold_words = normalize_answer(prediction).split(), normalize_answer(gold).split()
    shared = sum((Counter(words) & Counter(gold_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def f1_or_empty(prediction: str, gold: str) -> float:
    """F1 as in SQuAD v2.0: when either text is empty after normalisation, 1.0 if both are, else 0.0."""
    if not normalize_answer(prediction) or not normalize_answer(gold):
        return exact_match(prediction, gold)
    return f1(prediction, gold)


def refuse_unscorable(dataset: SquadDataset) -> None:
    """Raise InputError when a question has nothing to be scored against: before the work that a score is to follow."""
    bare = [] if dataset.allows_no_answer else [question.id for question in dataset.questions if not question.answers]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(dataset.questions)} questions have no gold answer, first {bare[0]!r:.60}, and the "
            "file is not SQuAD 2: leave them out, or mark them with is_impossible"
        )


def score_predictions(
    dataset: SquadDataset, predictions: Mapping[str, str], *, failed: Collection[str] = ()
) -> SquadScore:
    """Exact match and F1 of predictions by question id, by the rules of the dataset's version.

    Questions in `failed` need no prediction and are wrong, as the official v1.1 script counts what is missing. Raises
    InputError when there is no question, or one without a prediction or (in SQuAD v1.1) without a gold answer.
    """
    if not dataset.questions:
        raise InputError("there are no questions to score")
    found = predictions.keys() | set(failed)
    missing = [question.id for question in dataset.questions if question.id not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(dataset.questions)} questions have no prediction, first {missing[0]!r:.60}"
        )
    refuse_unscorable(dataset)
    no_answer = dataset.allows_no_answer
    scores = [
        (0.0, 0.0) if question.id in failed else _score_question(question, predictions[question.id], no_answer)
        for question in dataset.questions
    ]
    exact, overlap, count = _mean(scores)
    whole = SquadScore(exact, overlap, count, failed=len(failed) or None)
    if not no_answer:
        return whole
    # As the official script sorts them: by the list of gold answers, not by `is_impossible`.
    answered = [score for question, score in zip(dataset.questions, scores, strict=True) if question.answers]
    unanswered = [score for question, score in zip(dataset.questions, scores, strict=True) if not question.answers]
    return replace(
        whole,
        has_answer=ScorePart(*_mean(answered)) if answered else None,
        no_answer=ScorePart(*_mean(unanswered)) if unanswered else None,
    )


def _score_question(question: SquadQuestion, prediction: str, no_answer: bool) -> tuple[float, float]:
    """Exact match and F1 of one question, the best over its gold answers, by the rules of v2.0 if `no_answer`."""
    golds, overlap = question.answers, f1
    if no_answer:  # the official script leaves out golds that normalise to nothing
        golds, overlap = tuple(gold for gold in golds if normalize_answer(gold)) or ("",), f1_or_empty
    return max(exact_match(prediction, gold) for gold in golds), max(overlap(prediction, gold) for gold in golds)


def _mean(scores: Sequence[tuple[float, float]]) -> tuple[float, float, int]:
    """Means in percent, and of how many."""
    count = len(scores)
    return 100 * sum(exact for exact, _ in scores) / count, 100 * sum(part for _, part in scores) / count, count


def write_predictions(path: str | Path, predictions: Mapping[str, str]) -> None:
    """Write predictions as the official evaluation script reads them: one JSON object, id to text."""
    write_text_atomic(Path(path), json.dumps(dict(predictions), indent=1, ensure_ascii=False) + "\n")


def load_squad(name: str, limit: int | None = None) -> SquadDataset:
    """The dataset that `--squad` names: a file, or the embedded `sample`."""
    return read_squad(sample_squad_path() if name == "sample" else Path(name), limit=limit)
