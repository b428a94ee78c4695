"""How the threshold and the regularisation follow the steps of a run: nothing at first, a cubic ramp, a long hold.

schedule = Schedule(total=110_660, warmup=5_400)
schedule.threshold(20_000), schedule.regularisation(20_000)      # 0.0634202, 12.6840
"""

from __future__ import annotations

from dataclasses import dataclass

from densepack_runtime.errors import InputError

PUBLISHED_STEPS, PUBLISHED_WARMUP = 110_660, 5_400


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in all, steps of learning rate warm-up, and the ends of the ramp as multiples of that warm-up.

    The first `initial_warmups` · warmup steps have the first threshold, the last `final_warmups` · warmup the last.
    """

    total: int
    warmup: int
    initial_warmups: float = 1
    final_warmups: float = 10
    first_threshold: float = 0.0
    last_threshold: float = 0.1
    last_regularisation: float = 20.0

    def __post_init__(self) -> None:
        ramp = self.total - (self.initial_warmups + self.final_warmups) * self.warmup
        if self.warmup < 0 or ramp <= 0:
            raise InputError(
                f"a run of {self.total} steps has no room to prune: {self.initial_warmups:g} + {self.final_warmups:g} "
                f"times {self.warmup} warm-up steps leave a ramp of {ramp:g}; take fewer warm-up steps"
            )

    def remaining(self, step: int) -> float:
        """What is still to be pruned, m³: 1 before the ramp, 0 after it (`step` steps are done)."""
        start = self.initial_warmups * self.warmup
        if step <= start:
            return 1.0
        if step > self.total - self.final_warmups * self.warmup:
            return 0.0
        ramp = self.total - (self.initial_warmups + self.final_warmups) * self.warmup
        return float((1 - (step - start) / ramp) ** 3)

    def threshold(self, step: int) -> float:
        """τ. Evaluation always uses `last_threshold`."""
        return self.last_threshold + (self.first_threshold - self.last_threshold) * self.remaining(step)

    def progress(self, step: int) -> float:
        """τ(s)/τ1 of a threshold that starts at 0: how far the ramp has come, 0 to 1."""
        return 1 - self.remaining(step)

    def regularisation(self, step: int) -> float:
        """λ: the last regularisation, times τ(s)/τ1 where the threshold grows, else times the progress of the ramp."""
        if 0 < self.first_threshold < self.last_threshold:
            return self.last_regularisation * self.threshold(step) / self.last_threshold
        return self.last_regularisation * self.progress(step)

    def density(self, step: int, target: float, start: float = 1.0) -> float:
        """The packed density that a steered run should have by now: from `start` along the ramp to `target`."""
        return target + (start - target) * self.remaining(step)

    @property
    def freeze_step(self) -> int:
        """Where a steered run fixes its masks: half-way through the hold, so that the rest only recovers."""
        return self.total - round(self.final_warmups * self.warmup / 2)


def default_warmup(total: int) -> int:
    """Warm-up steps in the proportion of the published run, which had 5,400 of 110,660."""
    return round(total * PUBLISHED_WARMUP / PUBLISHED_STEPS)
