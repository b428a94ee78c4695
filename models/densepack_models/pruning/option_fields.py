"""What a field of an option dataclass tells about itself, once: for the library's checks and for the command line.

@dataclass(frozen=True)
class Sampling:
    batches: int = option(200, "Batches that are looked at.", least=1)

    def __post_init__(self) -> None:
        refuse(faults_of(self))             # InputError: batches is 0, at least 1 is needed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, get_args, get_origin, get_type_hints

from densepack_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


class Option(TypedDict, total=False):
    """Bounds are `least`, or `least` and `most`, or `above`, which is not in them; None is within all of them.

    The rest is for the command line, where a field without `help` is no option. `flag` is the spelling, by default the
    name. `told` False keeps it out of a recorded command line, for what does not change what comes out. `before` names
    the option that it stands before. `by_preset` makes it None where it was not asked for, so that the preset decides.
    `parse` makes the value from the text that the command line takes; where there is none, the value stays.
    """

    help: str
    least: float
    most: float
    above: float
    metavar: str
    flag: str
    told: bool
    before: str
    by_preset: bool
    parse: Callable[[str], object]


def option(default: T, help: str = "", /, **more: Unpack[Option]) -> T:
    """A field of an option dataclass, as `dataclasses.field` makes it; to a type checker it is its default."""
    return field(default=default, metadata={"help": help, **more})


def options_of(kind: type[DataclassInstance] | DataclassInstance) -> dict[str, Option]:
    """What every field tells, by name."""
    return {entry.name: cast(Option, entry.metadata) for entry in fields(kind)}


def fault_of(name: str, value: object, told: Option) -> str | None:
    """What is wrong with a number, in words; None when it is finite and within its bounds."""
    if not isinstance(value, int | float):
        return None
    finite = abs(value) < inf
    if told.get("least", -inf) <= value <= told.get("most", inf) and value > told.get("above", -inf) and finite:
        return None
    needed = bounds_of(told) if finite or "most" in told else "a finite number"
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{told.get('flag', name)} is {shown}, {needed} is needed"


def bounds_of(told: Option) -> str | None:
    """Like "at least 1", "more than 0" or "0 to 1"; None without bounds."""
    if "above" in told:
        return f"more than {told['above']}"
    if "least" not in told:
        return None
    return f"{told['least']} to {told['most']}" if "most" in told else f"at least {told['least']}"


def faults_of(options: DataclassInstance) -> list[str]:
    """What is wrong with the fields: numbers out of bounds, texts that are not among the choices of their Literal."""
    faults = []
    for name, told in options_of(options).items():
        value, choices = getattr(options, name), _choices(type(options)).get(name, ())
        if choices and value not in choices:
            faults.append(f"{name} is {value!r}, one of {', '.join(choices)} is needed")
        elif (fault := fault_of(name, value, told)) is not None:
            faults.append(fault)
    return faults


def refuse(faults: Iterable[str]) -> None:
    """Raise InputError that lists the faults, if there are any."""
    if text := "; ".join(faults):
        raise InputError(text)


@cache
def _choices(kind: type[Any]) -> Mapping[str, tuple[str, ...]]:
    return {name: get_args(hint) for name, hint in get_type_hints(kind).items() if get_origin(hint) is Literal}
