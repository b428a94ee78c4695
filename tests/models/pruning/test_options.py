"""Options of training: every fault is told at once, whichever rule it breaks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from densepack_models.pruning.option_fields import faults_of, option, refuse
from densepack_models.pruning.options import PruningOptions, TrainingOptions, block_from_text
from densepack_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Sampling:
    """One field of every kind of bound."""

    batches: int = option(200, "Batches that are looked at.", least=1)
    limit: int | None = option(None, least=1)
    share: float = option(0.5, "Share of them, 0 to 1.", least=0, most=1)
    scale: float = option(1.0, above=0)
    free: float = 1.0
    turns: int = option(0, flag="--turn", least=0)

    def __post_init__(self) -> None:
        refuse(faults_of(self))


def test_what_is_within_bounds() -> None:
    assert Sampling(batches=1, limit=1, share=1, scale=1e-9, free=-1e9) == Sampling(1, 1, 1.0, 1e-9, -1e9)
    assert Sampling(share=0).limit is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": 0}, "batches is 0, at least 1 is needed"),
        ({"limit": 0}, "limit is 0, at least 1 is needed"),
        ({"share": 1.5}, "share is 1.5, 0 to 1 is needed"),
        ({"share": float("nan")}, "share is nan, 0 to 1 is needed"),
        ({"scale": 0.0}, "scale is 0, more than 0 is needed"),
        ({"scale": float("inf")}, "scale is inf, a finite number is needed"),
        ({"free": float("nan")}, "free is nan, a finite number is needed"),
        ({"turns": -1}, "--turn is -1, at least 0 is needed"),
        ({"batches": -3, "share": -1.0}, "batches is -3, at least 1 is needed; share is -1, 0 to 1 is needed"),
    ],
)
def test_what_is_out_of_bounds(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Sampling(**changes)  # type: ignore[arg-type]


def test_all_faults_of_a_training_are_told() -> None:
    with pytest.raises(InputError) as caught:
        TrainingOptions(epochs=0, max_length=8, dropout=2, precision="int8", device="tpu", seed=-1)  # type: ignore[arg-type]
    assert str(caught.value).split("; ") == [
        "epochs is 0, more than 0 is needed",
        "max_length is 8, at least 16 is needed",
        "dropout is 2, 0 to 1 is needed",
        "precision is 'int8', one of fp32, bf16, fp16 is needed",
        "device is 'tpu', one of auto, cpu, cuda is needed",
        "seed is -1, 0 to 4294967295 is needed",
    ]


def test_all_faults_of_a_pruning_are_told() -> None:
    with pytest.raises(InputError) as caught:
        PruningOptions(method="magnitude", init="fisher", last_threshold=2, target_density=1.5, fisher_batches=0)
    assert str(caught.value).split("; ") == [
        "fisher_batches is 0, at least 1 is needed",
        "a fisher start needs scores that a threshold or a rank cuts, method magnitude has none",
        "the last threshold of magnitude is the kept share, 0 to 1, not 2",
        "a density of 150 % cannot be reached: it is between 0 and 100 %",
    ]


def test_a_second_order_start_needs_to_know_where_it_goes() -> None:
    with pytest.raises(InputError, match=r"half of the way to a density: say which, --target-density"):
        PruningOptions(init="second-order")


@pytest.mark.parametrize(
    "field",
    [
        "regularisation",
        "attention_coefficient",
        "dense_coefficient",
        "initial_warmups",
        "final_warmups",
        "score_learning_rate",
    ],
)
@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf")])
def test_what_pruning_cannot_be_weighed_with(field: str, value: float) -> None:
    name = "--lambda" if field == "regularisation" else field
    with pytest.raises(InputError, match=f"^{name} is {value:g}, .* is needed$"):
        PruningOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["first_threshold", "last_threshold"])
def test_thresholds_are_finite(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} is nan, a finite number is needed"):
        PruningOptions(method="threshold", **{field: float("nan")})  # type: ignore[arg-type]
    assert PruningOptions(method="threshold", first_threshold=-1.0).first_threshold == -1


def test_blocks_from_text() -> None:
    assert block_from_text("64x32") == (64, 32)
    assert block_from_text("head") is None
    for text in ("64", "64x", "0x32", "64x32x1", "heads"):
        with pytest.raises(InputError, match=f"ROWSxCOLUMNS, like 32x32, or `head`; got '{text}'"):
            block_from_text(text)
