"""The options of a command, made from the fields of option dataclasses.

@app.command()
@with_options(TrainingOptions(epochs=4.0), RunOptions())
def fill(context: typer.Context, out: OutArgument, **asked: object) -> None:
    training = changed(TrainingOptions(), asked)
    command_line = told_command_line(context, TrainingOptions, RunOptions)
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from densepack_models.pruning.option_fields import Option, bounds_of, fault_of, options_of
from densepack_runtime.commands.options import Command, named_parameters, with_parameters
from densepack_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def with_options(*groups: DataclassInstance, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Gives a command an option for every field of the groups, with its value as the default, in place of `**asked`.

    Fields in `without` become none; of several that are called the same, the first does.
    """

    def give(command: Command) -> Command:
        parameters = named_parameters(command)
        for group in groups:
            for told, parameter in _parameters(group):
                names = [each.name for each in parameters]
                if parameter.name not in (*names, *without):
                    before = told.get("before")
                    parameters.insert(names.index(before) if before in names else len(names), parameter)
        return with_parameters(command, parameters)

    return give


def changed(options: T, asked: Mapping[str, object]) -> T:
    """The options with what was asked for; None is what was not."""
    changes = {
        name: told["parse"](str(asked[name])) if "parse" in told else asked[name]
        for name, told in options_of(options).items()
        if asked.get(name) is not None
    }
    return replace(options, **changes)


def told_command_line(context: typer.Context, *groups: type[DataclassInstance]) -> str:
    """The command with what was asked for: files by their names alone, without what says nothing about the result."""
    untold = {name for group in groups for name, told in options_of(group).items() if not told.get("told", True)}
    parts = ["densepack", str(context.info_name)]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params[str(parameter.name)]
        source = context.get_parameter_source(name)
        if name in untold or source is None or source.name != "COMMANDLINE":
            continue
        option = [] if parameter.param_type_name == "argument" else [max(parameter.opts, key=len)]
        told = str(value) if isinstance(value, float) else Path(str(value)).name
        parts += option if value is True else [*option, told]
    return shlex.join(parts)


def _parameters(group: DataclassInstance) -> Iterator[tuple[Option, Parameter]]:
    hints = get_type_hints(type(group), include_extras=True)
    for name, told in options_of(group).items():
        hint = hints[name]
        default = None if told.get("by_preset") or "parse" in told else getattr(group, name)
        if told.get("help"):
            kind = str if "parse" in told else hint
            hint = Annotated[kind | None if default is None else kind, _typer_option(name, told, hint, default)]
        if get_origin(hint) is Annotated:
            yield told, Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _typer_option(name: str, told: Option, hint: Any, default: object) -> Any:
    """What typer is told about a field. Whole numbers and texts to be parsed are checked when the command line is read,
    fractions by the dataclass, which lists all that is wrong with them.
    """
    bounded = int in (hint, *get_args(hint)) and bounds_of(told) is not None
    return typer.Option(
        told.get("flag", f"--{name.replace('_', '-')}"),
        help=told["help"],
        metavar=f"<int range> [{_range(told)}]" if bounded else told.get("metavar"),
        callback=_check(name, told) if bounded or "parse" in told else None,
        show_default=default is not None,
    )


def _range(told: Option) -> str:
    """Bounds as typer writes its own: "x>=1"."""
    if "above" in told:
        return f"x>{told['above']}"
    return f"{told['least']}<=x<={told['most']}" if "most" in told else f"x>={told['least']}"


def _check(name: str, told: Option) -> Callable[[Any], Any]:
    """A callback that lets a value through as it is, or refuses it in the words of the library."""

    def check(value: Any) -> Any:
        fault = fault_of(name, value, told)
        try:
            if value is not None and "parse" in told:
                told["parse"](value)
        except InputError as error:
            fault = str(error)
        if fault is not None:
            raise typer.BadParameter(fault)
        return value

    return check
