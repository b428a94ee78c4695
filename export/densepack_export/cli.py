"""The command `densepack`: the production commands of the runtime, and those that need PyTorch.

At start this imports densepack_runtime and the options of training, nothing heavy; every heavy command loads what it
needs when it is called, so the same command works on a production host.
"""

from __future__ import annotations

from densepack_export.commands import (
    bench,
    bisect,
    build,
    card,
    checkpoints,
    engine,
    parity,
    report,
    shrink,
    training,
    triton,
)
from densepack_runtime.commands import answer, batch, doctor, evaluate, plan, prove, serve
from densepack_runtime.commands.options import app
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import run_command_line

# Importing a module registers its commands, in this order.
COMMANDS = (
    answer,
    batch,
    serve,
    evaluate,
    doctor,
    prove,
    plan,
    checkpoints,
    build,
    parity,
    bisect,
    engine,
    triton,
    bench,
    report,
    card,
    shrink,
    training,
)


def main() -> None:
    """Entry point of the command `densepack`."""
    keep_freed_memory()
    run_command_line(app)


if __name__ == "__main__":
    main()
