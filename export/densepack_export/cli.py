"""The command `densepack`: the production commands of the runtime, and those that need PyTorch.

At start this imports densepack_runtime and the options of training, nothing heavy; every heavy command loads what it
needs when it is called, so the same command works on a production host.
"""

from __future__ import annotations

from typer import Typer

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

# Importing a module registers its commands.
COMMANDS = (
    answer,
    batch,
    serve,
    evaluate,
    doctor,
    prove,
    plan,
    travel,
    checkpoints,
    build,
    parity,
    bisect,
    engine,
    triton,
    push,
    bench,
    report,
    card,
    shrink,
    training,
)
# As `densepack --help` shows them.
GROUPS = {
    "From a checkpoint to a bundle": ("build", "build-engine", "inspect", "pack", "export", "triton"),
    "Answers": ("answer", "eval", "serve", "batch", "plan"),
    "Whether they are right, and how fast": ("parity", "prove", "bisect", "bench", "report", "doctor"),
    "A bundle travels": ("archive", "push", "download"),
    "Smaller models": ("shrink", "prune", "fill", "finetune", "card"),
}


def _group(app: Typer) -> None:
    places = [(name, group) for group, names in GROUPS.items() for name in names]
    known = {one.name or one.callback.__name__: one for one in app.registered_commands if one.callback}
    for name, group in places:
        known[name].rich_help_panel = group
    app.registered_commands.sort(key=[known[name] for name, _ in places].index)


_group(app)


def main() -> None:
    """Entry point of the command `densepack`."""
    keep_freed_memory()
    run_command_line(app)


if __name__ == "__main__":
    main()
