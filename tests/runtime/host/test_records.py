"""JSON becomes a record whole, or one line that says what is wrong and where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from densepack_runtime.errors import DensepackError, InputError
from densepack_runtime.host.records import Document, data_from_record


@dataclass(frozen=True, slots=True)
class Wheel:
    size: float
    kind: Literal["front", "back"] = "front"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise DensepackError(f"a wheel cannot be of size {self.size}")


@dataclass(frozen=True, slots=True)
class Bicycle:
    wheels: tuple[Wheel, ...]
    names: dict[str, int]
    parts: dict[str, Wheel]
    spare: Wheel | None = None

    @property
    def derived(self) -> dict[str, Any]:
        return {"size": sum(wheel.size for wheel in self.wheels)}


BICYCLE = Bicycle((Wheel(28), Wheel(26.5, "back")), {"b": 1, "a": 2}, {"c": Wheel(1)}, spare=Wheel(27))
FILE = Document("bicycle.json", InputError, "build it again")


def test_a_record_survives_json() -> None:
    told = data_from_record(BICYCLE)
    assert told["size"] == 54.5
    assert FILE.parse(json.dumps(told), Bicycle) == BICYCLE
    assert FILE.parse(json.dumps(told).encode(), Bicycle) == BICYCLE
    assert FILE.record({**told, "size": "seen by others only"}, Bicycle) == BICYCLE
    assert FILE.record([told], tuple[Bicycle, ...]) == (BICYCLE,)


def test_what_has_a_default_may_be_missing() -> None:
    assert FILE.record({"wheels": [{"size": 1}], "names": {}, "parts": {}}, Bicycle) == Bicycle((Wheel(1),), {}, {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"wheels": {}}, "Expected `array`, got `object` - at `wheels`"),
        ({"wheels": [{"size": 1}, {}]}, "Object missing required field `size` - at `wheels[1]`"),
        ({"wheels": [{"size": 1, "x\ny": 2, "a": 3}]}, "unknown: `wheels[0].a`, `wheels[0].x y`"),
        ({"wheels": [{"size": "28"}]}, "Expected `float`, got `str` - at `wheels[0].size`"),
        ({"wheels": [{"size": -1}]}, "a wheel cannot be of size -1.0"),
        ({"wheels": [{"size": 1, "kind": "mid"}]}, "Invalid enum value 'mid' - at `wheels[0].kind`"),
        ({"names": {"a": True}}, "Expected `int`, got `bool` - at `names[...]`"),
        ({"names": {"a": 1.0}}, "Expected `int`, got `float` - at `names[...]`"),
        ({"parts": {"c": {"size": 1, "x": 2}}}, "unknown: `parts['c'].x`"),
        ({"spare": {"size": 1, "x": 2}, "colour": 1}, "unknown: `colour`, `spare.x`"),
        ({"spare": {"size": 10**400}}, "Number out of range - at `spare.size`"),
    ],
)
def test_a_fault_is_one_line_that_says_where(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        FILE.record({**data_from_record(BICYCLE), **change}, Bicycle)
    assert str(caught.value) == f"bicycle.json cannot be read ({told}): build it again"


@pytest.mark.parametrize("text", ["", "{", "nan", b"\xff", "9" * 5000, "[" * 100_000])
def test_a_text_that_is_not_json(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"^bicycle.json cannot be read \(it is not JSON: .*\): build it again$"):
        FILE.parse(text, Bicycle)


def test_a_fault_is_short_whatever_was_seen() -> None:
    with pytest.raises(InputError) as caught:
        FILE.record({**data_from_record(BICYCLE), **{f"unknown{number}": 1 for number in range(10_000)}}, Bicycle)
    assert len(str(caught.value)) < 600
    with pytest.raises(InputError) as caught:
        FILE.record({**data_from_record(BICYCLE), "spare": {"size": 1, "kind": "x" * 10**6}}, Bicycle)
    assert len(str(caught.value)) < 600
