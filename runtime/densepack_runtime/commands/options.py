"""The application and the options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, TypedDict, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

from densepack_runtime.backends import AskedPrecision, backend_names
from densepack_runtime.host.user_cache import CACHE_VARIABLE
from densepack_runtime.host.versions import package_versions
from densepack_runtime.sessions.options import SessionOptions

Command = TypeVar("Command", bound=Callable[..., None])
app = typer.Typer(
    name="densepack",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pack block-pruned question-answering models dense, export and run them, prove that nothing was lost.",
    epilog="The usual path: densepack build CHECKPOINT bundle; densepack prove bundle; densepack serve bundle.",
)
BundleArgument = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="A bundle: a folder, a .tar of `densepack archive`, or owner/name or owner/name@revision of the hub.",
    ),
]


class _BackendOption(OptionInfo):
    """An option whose help names the backends that are registered when it is shown."""

    @property
    def help(self) -> str:
        return f"Which backend runs it: {', '.join(backend_names())}."

    @help.setter
    def help(self, _: object) -> None: ...


BackendOption = Annotated[str, _BackendOption(default=...)]
PrecisionOption = Annotated[
    AskedPrecision | None,
    typer.Option(
        help="By default what the backend does best; bf16 and int8 are OpenVINO's; fastest: what `prove` found here.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; by default the physical cores.", show_default=False)
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="Replay CUDA graphs on a GPU, one for each padded shape.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a bundle whose parity check failed or was left out.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help=f"Keep what is compiled for this host here; by default the folder of {CACHE_VARIABLE}, or BUNDLE.cache.",
        show_default=False,
    ),
]


class Opening(TypedDict):
    """How a bundle is opened, by the names that `QuestionAnswerer.open` has for it."""

    backend: BackendOption
    precision: PrecisionOption
    threads: ThreadsOption
    cuda_graphs: CudaGraphsOption
    cache: CacheOption


_OPENING = Opening(backend="auto", precision=None, threads=None, cuda_graphs=True, cache=None)


def with_opening(*, before: str, **defaults: object) -> Callable[[Command], Command]:
    """Gives a command the options of `Opening` in place of its `**opening`, before the parameter that is named."""

    def give(command: Command) -> Command:
        parameters = named_parameters(command)
        place = [each.name for each in parameters].index(before)
        parameters[place:place] = [
            Parameter(name, Parameter.KEYWORD_ONLY, default={**_OPENING, **defaults}[name], annotation=hint)
            for name, hint in get_type_hints(Opening, include_extras=True).items()
        ]
        return with_parameters(command, parameters)

    return give


def named_parameters(command: Callable[..., None]) -> list[Parameter]:
    """A command's own parameters, without its `**…`."""
    own = signature(command, eval_str=True).parameters.values()
    return [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own if each.kind != Parameter.VAR_KEYWORD]


def with_parameters(command: Command, parameters: Sequence[Parameter]) -> Command:
    """The command, which then shows these parameters to typer."""
    command.__dict__["__signature__"] = Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def session_of(opening: Opening) -> SessionOptions:
    """What of it concerns the session."""
    return SessionOptions(opening["threads"], opening["cuda_graphs"], opening["cache"])


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
SquadOption = Annotated[
    str,
    typer.Option(
        "--squad", metavar="FILE", help="A SQuAD v1.1 or v2.0 file (.json or .json.gz), or `sample`: the embedded set."
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use only the first N questions.", show_default=False)]


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"densepack {package_versions()['densepack']}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command; `run_command_line` reads `--debug`."""
