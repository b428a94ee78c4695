"""The command `densepack`: the production commands of the runtime, and those that need PyTorch.

At start this imports densepack_runtime and the options of training, nothing heavy; every heavy command loads what it
needs when it is called, so the same command works on a production host.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from typer import Typer
from typer.main import get_command
from typer.models import CommandInfo

from densepack_export.commands import (
    bench,
    bisect,
    build,
    card,
    checkpoints,
    engine,
    parity,
    push,
    report,
    shrink,
    training,
    triton,
)
from densepack_runtime.commands import answer, batch, doctor, evaluate, plan, prove, serve, travel
from densepack_runtime.commands.options import app
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import run_command_line

# As `densepack --help` shows the commands that importing these modules has registered.
GROUPS: dict[str, Sequence[ModuleType]] = {
    "From a checkpoint to a bundle": (build, engine, checkpoints, triton),
    "Answers": (answer, evaluate, serve, batch, plan),
    "Whether they are right, and how fast": (parity, prove, bisect, bench, report, doctor),
    "A bundle travels": (travel, push),
    "Smaller models": (shrink, training, card),
}


def _group(app: Typer) -> None:
    group_of = {module.__name__: group for group, modules in GROUPS.items() for module in modules}
    order = list(group_of)
    for command in app.registered_commands:
        command.rich_help_panel = group_of[_module_of(command)]
    app.registered_commands.sort(key=lambda command: order.index(_module_of(command)))


def _module_of(command: CommandInfo) -> str:
    return str(getattr(command.callback, "__module__", None))


_group(app)


def command_names() -> dict[str, list[str]]:
    """The names of the commands by their group, as `densepack --help` shows them."""
    shown = get_command(app).commands  # type: ignore[attr-defined]  # a group, whatever typer says
    return {group: [name for name, of in shown.items() if of.rich_help_panel == group] for group in GROUPS}


def main() -> None:
    """Entry point of the command `densepack`."""
    keep_freed_memory()
    run_command_line(app)


if __name__ == "__main__":
    main()
