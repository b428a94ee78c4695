"""Side by side on SQuAD, end to end: from the file to exact match and F1, in interleaved rounds.

    section = measure_squad(sides, "dev-v1.1.json", limit=1000, settings=Settings(rounds=3), peak=peak_gflops())
    section["sides"][0]["questions_per_s"], section["ratios"][0]["median"]

A pass reads the file, tokenises, batches, runs the model, chooses spans and scores: what `densepack eval` does, without
opening the model. A few questions are asked before the first round, so that no side pays for its first call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from densepack_runtime.benchmark.sides import OnStep, Settings, Side, in_turn, settle, unheard
from densepack_runtime.benchmark.statistics import ratios, spread
from densepack_runtime.errors import InputError, ParityError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import SquadScore, read_squad, refuse_unscorable, score_predictions
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.sessions.metered_session import Meter, MeteredSession

WARMUP_QUESTIONS = 32


@dataclass(frozen=True, slots=True)
class _Pass:
    """One time through the file: seconds in all, what went through the session, and the score."""

    seconds: float
    meter: Meter
    score: SquadScore


@dataclass
class _Contestant:
    side: Side
    windower: Windower
    passes: list[_Pass] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [done.seconds for done in self.passes]

    @property
    def flops(self) -> int:
        """Floating point operations of a pass, those of padding included."""
        meter, cost = self.passes[0].meter, self.side.cost
        return cost.per_token * meter.padded_tokens + cost.per_token_pair * meter.padded_pairs


def measure_squad(
    sides: Sequence[Side],
    path: str | Path,
    *,
    limit: int | None = None,
    settings: Settings,
    peak: float,
    on_step: OnStep = unheard,
) -> dict[str, Any]:
    """The section `squad` of a benchmark document. `peak` is in GFLOP/s; `limit` keeps the first questions only.

    Raises InputError for a side without a tokenizer or a file that cannot be read or scored, and ParityError when a
    side does not score the same in every round.
    """
    path = Path(path)
    contestants = {side.name: _Contestant(side, _windower(side)) for side in sides}
    dataset = read_squad(path, limit=limit)
    refuse_unscorable(dataset)
    for side in sides:
        on_step(f"warm-up {side.name} {path.name}")
        _run(contestants[side.name], path, min(WARMUP_QUESTIONS, len(dataset.questions)))
    for number in range(settings.rounds):
        for side in in_turn(sides, number):
            on_step(f"round {number + 1} {side.name} {path.name}")
            settle(settings.settle_ms)
            done = _run(contestants[side.name], path, limit)
            contestants[side.name].passes.append(done)
            _check_score(contestants[side.name])
    base, *others = contestants.values()
    return {
        "file": path.name,
        "sha256": dataset.sha256,
        "questions": len(dataset.questions),
        "sides": [_row(contestant, peak) for contestant in contestants.values()],
        "ratios": [
            {
                "base": base.side.name,
                "side": other.side.name,
                **ratios(base.seconds, other.seconds, base.flops / other.flops),
            }
            for other in others
        ],
    }


def squad_steps(sides: int, settings: Settings) -> int:
    """How often `on_step` will be called."""
    return sides * (settings.rounds + 1)


def _windower(side: Side) -> Windower:
    if side.texts is None:
        raise InputError(f"{side.name} has no tokenizer, so that it cannot read texts: pass --tokenizer")
    return side.texts.windower()


def _run(contestant: _Contestant, path: Path, limit: int | None) -> _Pass:
    session = MeteredSession(contestant.side.session)
    answerer = QuestionAnswerer(session, contestant.windower, batching=contestant.side.batching)
    start = time.perf_counter()
    dataset = read_squad(path, limit=limit)
    score = score_predictions(dataset, answerer.predict(dataset))
    return _Pass(time.perf_counter() - start, session.meter, score)


def _check_score(contestant: _Contestant) -> None:
    first, last = contestant.passes[0].score, contestant.passes[-1].score
    if last != first:
        raise ParityError(
            f"{contestant.side.name} does not answer alike each time: EM {first.exact_match} and F1 {first.f1} in "
            f"round 1, {last.exact_match} and {last.f1} in round {len(contestant.passes)}; its times compare nothing"
        )


def _row(contestant: _Contestant, peak: float) -> dict[str, Any]:
    first, seconds = contestant.passes[0], contestant.seconds
    middle = median(seconds)
    counts = {name: value for name, value in asdict(first.meter).items() if name not in ("seconds", "padded_pairs")}
    gflops = contestant.flops / middle / 1e9
    return {
        "side": contestant.side.name,
        "median_s": middle,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "spread": spread(seconds),
        **counts,
        "questions_per_s": first.score.count / middle,
        "windows_per_s": first.meter.windows / middle,
        "tokens_per_s": first.meter.tokens / middle,
        "padded_tokens_per_s": first.meter.padded_tokens / middle,
        "gflops": gflops,
        "share_of_peak": None if contestant.side.on_gpu else gflops / peak,
        "model_s": median(done.meter.seconds for done in contestant.passes),
        "outside_share": median(1 - done.meter.seconds / done.seconds for done in contestant.passes),
        "exact_match": first.score.exact_match,
        "f1": first.score.f1,
        "samples_s": seconds,
    }
