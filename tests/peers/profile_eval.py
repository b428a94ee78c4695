"""Where the time of `densepack eval` goes, and what it gains by running the model in a thread of its own.

    python profile_eval.py packed.bundle dev-v1.1.json --questions 1000 --rounds 5 --precisions fp32,int8

In every round each precision runs in a session of its own: as shipped; with everything in one thread, one thing after
the other, where each stage is timed and nothing counts twice; and as shipped again, because in the first pass every
shape of a batch is new to the session. All must score the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

from provenance import provenance
from speed_clock import WARM_UP_QUESTIONS

from densepack_runtime.errors import InputError
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.question_answering import pools
from densepack_runtime.question_answering.answers import Answer
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import SquadDataset, SquadScore, read_squad, score_predictions

KIND = "densepack eval profile"
REST = "everything else"
P = ParamSpec("P")
T = TypeVar("T")


class Stages:
    """Seconds by stage. A stage that begins inside another one stops the other's clock."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running = [REST]
        self._since = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.tick()
        self._running.append(name)
        try:
            yield
        finally:
            self.tick()
            self._running.pop()

    def tick(self) -> None:
        """Give the time since the last tick to the stage that runs."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed

    def iterated(self, name: str, function: Callable[P, Iterable[T]]) -> Callable[P, Iterator[T]]:
        def iterated(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            source = iter(function(*args, **kwargs))
            while True:
                with self.stage(name):
                    item = next(source, None)
                if item is None:
                    return
                yield item

        return iterated


def shipped(answerer: QuestionAnswerer, squad: Path, questions: int) -> tuple[float, SquadScore]:
    """Seconds from the file to EM and F1, and the score."""
    start = time.perf_counter()
    dataset = read_squad(squad, limit=questions)
    score = score_predictions(dataset, answerer.predict(dataset))
    return time.perf_counter() - start, score


def staged(answerer: QuestionAnswerer, squad: Path, questions: int) -> tuple[dict[str, float], SquadScore]:
    """Seconds by stage in one thread, and the score."""
    stages = Stages()
    with (
        patch.object(pools, "length_sorted_batches", stages.iterated("batch", pools.length_sorted_batches)),
        patch.object(answerer.session, "run_many", stages.iterated("model", answerer.session.run_many)),
    ):
        dataset = stages.timed("read", read_squad)(squad, limit=questions)
        texts = [answers[0].text for answers in one_after_the_other(answerer, dataset, stages)]
        predictions = {question.id: text for question, text in zip(dataset.questions, texts, strict=True)}
        score = stages.timed("score", score_predictions)(dataset, predictions)
    stages.tick()
    return dict(stages.seconds), score


def one_after_the_other(answerer: QuestionAnswerer, dataset: SquadDataset, stages: Stages) -> Iterator[list[Answer]]:
    """The answers to every question, best first: each pool is tokenised, run and ranked before the next."""
    rules = answerer.rules.for_dataset(allows_no_answer=dataset.allows_no_answer)
    pairs = [(question.question, question.context) for question in dataset.questions]
    for pool in stages.iterated("tokenise", pools.pools_of)(pairs, answerer.windower):
        assert pool is not None  # what ends the questions ends the stage
        computed = pools.run_pool(pool, answerer.session, answerer.batching, answerer.windower.pad_id)
        for answers in stages.iterated("spans", pools.ranked)(pool, computed, rules):
            assert not isinstance(answers, InputError), answers
            yield answers


def main() -> None:
    options = _options()
    keep_freed_memory()  # as the command `densepack` does
    warnings.simplefilter("ignore")  # random weights: the bundle was not checked, and says so
    runs: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for precision in options.precisions.split(","):
            with QuestionAnswerer.open(options.bundle, precision=precision, threads=options.threads) as answerer:
                answerer.predict(read_squad(options.squad, limit=WARM_UP_QUESTIONS))
                first_seconds, first = shipped(answerer, options.squad, options.questions)
                stages, inline = staged(answerer, options.squad, options.questions)
                seconds, score = shipped(answerer, options.squad, options.questions)
            if not first == inline == score:
                sys.exit(f"error: {precision} scores {first}, {score} as shipped and {inline} in one thread")
            sys.stderr.write(
                f"round {number + 1}, {precision}: {first_seconds:.2f} s, {seconds:.2f} s, "
                f"inline {sum(stages.values()):.2f} s\n"
            )
            run = {"round": number, "precision": precision, "first_seconds": first_seconds, "seconds": seconds}
            runs.append(run | {"stages": stages})
    settings = {"questions": options.questions, "rounds": options.rounds, "threads": options.threads}
    head = {"kind": KIND, "bundle": Path(options.bundle).name, "squad": options.squad.name, "settings": settings}
    document = head | provenance("numpy", "onnxruntime", "openvino", "tokenizers") | {"runs": runs}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(document))


def table(document: dict[str, Any]) -> str:
    """Markdown: seconds and share of each stage, by precision, medians over rounds; then what the thread gains."""
    runs: list[dict[str, Any]] = document["runs"]
    precisions = list(dict.fromkeys(run["precision"] for run in runs))
    of = {precision: [run for run in runs if run["precision"] == precision] for precision in precisions}
    inline = {name: median(sum(run["stages"].values()) for run in of[name]) for name in precisions}
    lines = [f"| stage | {' | '.join(f'{name.upper()}, ms' for name in precisions)} |", "|---|" + "---|" * len(of)]
    for stage in dict.fromkeys(stage for run in runs for stage in run["stages"]):
        medians = {name: median(run["stages"].get(stage, 0) for run in of[name]) for name in precisions}
        told = (f"{seconds * 1e3:,.0f} ({seconds / inline[name]:.1%})" for name, seconds in medians.items())
        lines.append(f"| {stage} | {' | '.join(told)} |")
    lines.append(f"| all, one after the other | {' | '.join(f'{inline[name] * 1e3:,.0f}' for name in precisions)} |")
    for row, key in (("as shipped, overlapped", "seconds"), ("as shipped, every shape new", "first_seconds")):
        told = (f"{median(run[key] for run in of[name]) * 1e3:,.0f}" for name in precisions)
        lines.append(f"| {row} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle")
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "eval_profile.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
