"""What can be chosen about a training, with the published run's values as defaults, and the named presets.

pruning = PRESETS["struct"]
training = TrainingOptions(epochs=1, precision="bf16")

The options of `densepack prune`, `fill` and `finetune` are made from these fields, so nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from densepack_models.formats.score_methods import LEAST_SHARE, RANKED, Method
from densepack_models.pruning.option_fields import faults_of, option, refuse
from densepack_models.pruning.schedule import Schedule, default_warmup
from densepack_runtime.errors import InputError

TrainingPrecision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
BadAnswers = Literal["drop", "refuse"]
ShrinkPrecision = Literal["fp32", "bf16"]
Refit = Literal["layerwise", "once"]
Start = Literal["zero", "second-order", "fisher"]
Preset = Literal["hybrid", "struct", "magnitude"]
TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Data, optimiser and loop. Lengths and budgets in tokens; `max_steps` overrides `epochs`.

    `warmup_steps` None takes the published proportion, 4.9 % of the run.
    """

    epochs: float = option(20.0, "Passes over the data; fractions are allowed.", above=0)
    max_steps: int | None = option(None, "Optimiser steps, instead of --epochs.", least=1)
    token_budget: int = option(6144, "Padded tokens in a batch at most.", least=16)
    max_length: int = option(384, "Tokens in a window at most.", least=16)
    doc_stride: int = option(128, "Tokens that neighbouring windows share.", least=0)
    bad_answers: BadAnswers = option(
        "drop", "Questions whose answer is not where the data says: leave them out and list them, or stop."
    )
    learning_rate: float = option(3e-5, "Highest learning rate of the weights (AdamW).", above=0)
    weight_decay: float = option(0.0, "Weight decay of the matrices.", least=0)
    warmup_steps: int | None = option(None, "Steps of learning rate warm-up; by default 4.9 % of the run.", least=0)
    max_gradient_norm: float = option(1.0, above=0)
    distillation_weight: float = option(0.9, "Share of distillation in the loss, 0 to 1.", least=0, most=1)
    temperature: float = option(TEMPERATURE, above=0)
    dropout: float = option(0.1, "Of hidden states, 0 to 1.", least=0, most=1)
    attention_dropout: float = option(0.1, "Of attention weights, 0 to 1 (0 is much faster on a CPU).", least=0, most=1)
    accumulation: int = option(1, "Batches whose gradients make one step.", least=1)
    precision: TrainingPrecision = option("fp32", "Of matrix products (autocast); fp16 needs a GPU.")
    device: Device = option("auto", "Several GPUs: start the command with torchrun.")
    seed: int = option(0, "Of order, dropout and noise.", least=0, most=2**32 - 1)
    save_every: int = option(200, "Steps between two checkpoints.", least=1, told=False)
    log_every: int = option(10, "Steps between two rows of the log.", least=1, told=False)
    eval_every: int = option(0, "Steps between two evaluations; 0: at the end only.", least=0)

    def __post_init__(self) -> None:
        refuse(faults_of(self))

    def warmup(self, total: int) -> int:
        """Steps over which the learning rate grows."""
        return default_warmup(total) if self.warmup_steps is None else self.warmup_steps


def block_from_text(text: str) -> tuple[int, int] | None:
    """(32, 32) for "32x32", None for "head". Raises InputError for anything else."""
    parts = text.split("x")
    if text != "head" and (len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts)):
        raise InputError(f"an attention block is ROWSxCOLUMNS, like 32x32, or `head`; got {text!r}")
    return None if text == "head" else (int(parts[0]), int(parts[1]))


@dataclass(frozen=True, slots=True)
class PruningOptions:
    """Masks, schedule and regulariser. The thresholds of the ranked methods (topk, magnitude) are kept shares.

    `attention_block` None means whole heads. With `target_density`, λ (or the kept share) is steered to it. `init`
    "fisher" starts the scores from a one-shot ranking made on `fisher_batches` batches; "second-order" does so once
    half of the way, counted in factors, has been cut by second-order statistics.
    """

    method: Method = option("sigmoid", "sigmoid, topk, threshold, magnitude or l0, instead of the preset's.", parse=str)
    attention_block: tuple[int, int] | None = option(
        (32, 32), "Like 32x32 or 64x64, or `head`.", metavar="ROWSxCOLUMNS", parse=block_from_text
    )
    target_density: float | None = option(None, "Share of the linear weights to keep, 0 to 1: λ is steered to it.")
    regularisation: float = option(
        20.0, "Final weight of the regulariser; 20.", flag="--lambda", least=0, by_preset=True
    )
    attention_coefficient: float = option(1.0, "Of attention in the regulariser; 1.", least=0, by_preset=True)
    dense_coefficient: float = option(
        0.25, "Of the FFN in the regulariser; 0.25. Lower trades heads for units.", least=0, by_preset=True
    )
    first_threshold: float = option(0.0, "τ before the ramp; 0.", by_preset=True)
    last_threshold: float = option(
        0.1, "τ after the ramp; 0.1. For topk and magnitude: the kept share.", by_preset=True
    )
    initial_warmups: float = option(1.0, "Where the ramp starts, in warm-ups; 1.", least=0, by_preset=True)
    final_warmups: float = option(10.0, "How long the hold is, in warm-ups; 10.", least=0, by_preset=True)
    least_share: float = LEAST_SHARE
    score_learning_rate: float = option(1e-2, "Highest learning rate of the scores; 0.01.", above=0, by_preset=True)
    init: Start = option(
        "zero",
        "second-order: half of the way to --target-density is cut at once, as `shrink` does, and scores start from a "
        "ranking, for short schedules; fisher: the ranking alone.",
    )
    fisher_batches: int = option(200, "Batches that the ranking looks at.", least=1)

    def __post_init__(self) -> None:
        faults = faults_of(self)
        if self.init == "second-order" and self.target_density is None:
            faults.append("a second-order start goes half of the way to a density: say which, --target-density")
        if self.init != "zero" and self.method in ("magnitude", "l0"):
            faults.append(
                f"a {self.init} start needs scores that a threshold or a rank cuts, method {self.method} has none"
            )
        if self.method in RANKED and not 0 < self.last_threshold <= 1:
            faults.append(f"the last threshold of {self.method} is the kept share, 0 to 1, not {self.last_threshold:g}")
        if self.method == "sigmoid" and not 0 <= self.first_threshold <= self.last_threshold < 1:
            faults.append(
                "thresholds of a sigmoid must grow between 0 and 1: "
                f"{self.first_threshold:g} to {self.last_threshold:g}"
            )
        if self.target_density is not None and not 0 < self.target_density < 1:
            faults.append(f"a density of {100 * self.target_density:g} % cannot be reached: it is between 0 and 100 %")
        if not 0 <= self.least_share < 1:
            faults.append(f"the floor on survivors is {self.least_share:g}, 0 to 1 is needed")
        refuse(faults)

    def schedule(self, total: int, warmup: int) -> Schedule:
        return Schedule(
            total=total,
            warmup=warmup,
            initial_warmups=self.initial_warmups,
            final_warmups=self.final_warmups,
            first_threshold=self.first_threshold,
            last_threshold=self.last_threshold,
            last_regularisation=self.regularisation,
        )


PRESETS: dict[str, PruningOptions] = {
    "hybrid": PruningOptions(),
    "struct": PruningOptions(attention_block=None),
    "magnitude": PruningOptions(method="magnitude", first_threshold=1.0, last_threshold=0.25, regularisation=0.0),
}


def family_from_text(text: str) -> tuple[float, ...]:
    """Densities, which are below 1, and speed-ups, which are above, from "0.7,0.5" or "2,3,4". Raises InputError for
    anything else than different positive numbers.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len({*found}) < len(found) or not all(0 < value < inf and value != 1 for value in found):
        raise InputError(
            "a family is of different numbers, separated by commas: densities, below 1, and speed-ups, above 1; got "
            f"{text!r}"
        )
    return found


@dataclass(frozen=True, slots=True)
class ShrinkOptions:
    """How a model is measured before it is cut. Lengths and budgets in tokens."""

    questions: int = option(1000, "Questions that the model is measured on, drawn from the data.", least=1)
    token_budget: int = option(4096, "Padded tokens in a batch at most.", least=16)
    max_length: int = option(384, "Tokens in a window at most.", least=16)
    doc_stride: int = option(128, "Tokens that neighbouring windows share.", least=0)
    refit: Refit = option(
        "layerwise",
        "What stays is fitted to the dense model's inputs once, or to those that the cut layers before leave.",
    )
    precision: ShrinkPrecision = option("fp32", "Of the model's matrix products while it is measured (autocast).")
    device: Device = option("auto", "Where to measure and to cut, in float64 either way.")
    save_every: int = option(50, "Batches, or steps of --recover, between two saves.", least=1, told=False)
    seed: int = option(0, "Of the questions that are drawn.", least=0, most=2**32 - 1)

    def __post_init__(self) -> None:
        refuse(faults_of(self))
