"""What can be chosen about a training, with the published run's values as defaults, and the named presets.

pruning = PRESETS["struct"]
training = TrainingOptions(epochs=1, precision="bf16")
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from densepack_models.formats.score_masks import LEAST_SHARE, METHODS, RANKED, Method
from densepack_models.pruning.losses import DISTILLATION_WEIGHT, TEMPERATURE
from densepack_models.pruning.masked import MaskSettings
from densepack_models.pruning.schedule import Schedule, default_warmup
from densepack_models.pruning.training_data import BadAnswers
from densepack_runtime.errors import InputError

TrainingPrecision = Literal["fp32", "bf16", "fp16"]
Start = Literal["zero", "fisher"]
Preset = Literal["hybrid", "struct", "magnitude"]


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Data, optimiser and loop. Lengths and budgets in tokens; `max_steps` overrides `epochs`.

    `warmup_steps` None takes the published proportion, 4.9 % of the run.
    """

    epochs: float = 20.0
    max_steps: int | None = None
    token_budget: int = 6144
    max_length: int = 384
    doc_stride: int = 128
    bad_answers: BadAnswers = "drop"
    learning_rate: float = 3e-5
    weight_decay: float = 0.0
    warmup_steps: int | None = None
    max_gradient_norm: float = 1.0
    distillation_weight: float = DISTILLATION_WEIGHT
    temperature: float = TEMPERATURE
    dropout: float = 0.1
    attention_dropout: float = 0.1
    accumulation: int = 1
    precision: TrainingPrecision = "fp32"
    device: str = "auto"
    seed: int = 0
    save_every: int = 200
    log_every: int = 10
    eval_every: int = 0

    def __post_init__(self) -> None:
        counts = {
            "max_steps": 1 if self.max_steps is None else self.max_steps,
            "accumulation": self.accumulation,
            "save_every": self.save_every,
            "log_every": self.log_every,
        }
        faults = [f"{name} is {value}, at least 1 is needed" for name, value in counts.items() if value < 1]
        if self.epochs <= 0:
            faults.append(f"epochs is {self.epochs:g}, more than 0 is needed")
        shares = ("distillation_weight", "dropout", "attention_dropout")
        faults += [
            f"{name} is {getattr(self, name):g}, 0 to 1 is needed"
            for name in shares
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.temperature <= 0:
            faults.append(f"temperature is {self.temperature:g}, more than 0 is needed")
        if faults:
            raise InputError("; ".join(faults))

    def warmup(self, total: int) -> int:
        """Steps over which the learning rate grows."""
        return default_warmup(total) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, slots=True)
class PruningOptions:
    """Masks, schedule and regulariser. The thresholds of the ranked methods (topk, magnitude) are kept shares.

    `attention_block` None means whole heads. With `target_density`, λ (or the kept share) is steered to it. `init`
    "fisher" starts the scores from a one-shot ranking made on `fisher_batches` batches.
    """

    method: Method = "sigmoid"
    attention_block: tuple[int, int] | None = (32, 32)
    first_threshold: float = 0.0
    last_threshold: float = 0.1
    initial_warmups: float = 1.0
    final_warmups: float = 10.0
    regularisation: float = 20.0
    attention_coefficient: float = 1.0
    dense_coefficient: float = 0.25
    least_share: float = LEAST_SHARE
    score_learning_rate: float = 1e-2
    target_density: float | None = None
    init: Start = "zero"
    fisher_batches: int = 200

    def __post_init__(self) -> None:
        faults = []
        if self.method not in METHODS:
            faults.append(f"method is {self.method!r}, one of {', '.join(METHODS)} is needed")
        if self.init not in get_args(Start):
            faults.append(f"init is {self.init!r}, zero or fisher is needed")
        if self.init == "fisher" and self.method in ("magnitude", "l0"):
            faults.append(f"a fisher start needs scores that a threshold or a rank cuts, method {self.method} has none")
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
        if self.fisher_batches < 1:
            faults.append(f"fisher_batches is {self.fisher_batches}, at least 1 is needed")
        if faults:
            raise InputError("; ".join(faults))

    def masks(self) -> MaskSettings:
        return MaskSettings(self.method, self.attention_block, self.last_threshold, self.least_share)

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


def described(**options: object) -> dict[str, Any]:
    """Options as plain data, for the record of a run and to compare it with a resumed one."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        plain[name] = asdict(value) if hasattr(value, "__dataclass_fields__") else value  # type: ignore[call-overload]
    return plain
