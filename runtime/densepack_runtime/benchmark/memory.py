"""What a side takes of memory: measured in a fresh process that opens it and nothing else.

In a process that holds several sides, what one of them freed is what the next one gets: nothing can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from densepack_runtime.benchmark.sides import Cell, OnStep, OpenSession, Side, synthetic_batch, unheard
from densepack_runtime.errors import InputError
from densepack_runtime.host.fresh_process import in_fresh_process
from densepack_runtime.host.machine import peak_resident_mib, resident_mib
from densepack_runtime.sessions.options import DEFAULT, SessionOptions

Memory = dict[str, float | None]


def measure_memory(
    sides: Sequence[Side], cells: Sequence[Cell], options: SessionOptions = DEFAULT, on_step: OnStep = unheard
) -> dict[str, Memory]:
    """By side, in MiB of the whole process: `ready_mib` when the side is open, and `peak_mib`, the most that was in RAM
    until it had run every cell once (opening included). Memory of a GPU is not counted.

    Raises InputError for a side that cannot be opened in another process.
    """
    found = {}
    for side in sides:
        on_step(f"memory {side.name}")
        if side.open_again is None:
            raise InputError(f"{side.name} cannot be opened in another process to measure its memory")
        found[side.name] = in_fresh_process(_memory_of, side.open_again, tuple(cells), options)
    return found


def _memory_of(open_session: OpenSession, cells: Sequence[Cell], options: SessionOptions) -> Memory:
    with open_session(options) as session:
        ready = resident_mib()
        for cell in cells:
            session.run(synthetic_batch(cell))
    return {"ready_mib": ready, "peak_mib": peak_resident_mib()}
