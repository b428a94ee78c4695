"""How a session is opened: one object that is handed down whole, from the command line to the backend."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from densepack_runtime.errors import InputError
from densepack_runtime.host.cores import usable_cores
from densepack_runtime.sessions.session import INPUT_NAMES

# Beyond this many threads for a logical processor it is a typing error, and each takes memory.
_THREADS_A_PROCESSOR = 8


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What every backend may be told; each takes what concerns it.

    `threads` counts CPU threads; None stands for the physical cores within the quota of this process. `cache` is a
    folder for what is compiled for this host, None keeps nothing. `max_length` is the longest window in tokens and
    `inputs` what the graph takes, both as the manifest says. `lanes` counts the batches that are run at once, each
    in a session of its own with all the threads. Raises InputError for fewer than one thread or lane, or for many times
    more threads than the host has processors.
    """

    threads: int | None = None
    cuda_graphs: bool = True
    cache: Path | None = None
    max_length: int = 512
    inputs: tuple[str, ...] = INPUT_NAMES
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, got {self.threads}")
        if self.lanes < 1:
            raise InputError(f"lanes must be at least 1, got {self.lanes}")
        if self.threads is not None and self.threads > (most := _THREADS_A_PROCESSOR * (os.cpu_count() or 1)):
            raise InputError(
                f"{self.threads} threads are too many for {os.cpu_count()} processors: at most {most}, and more than "
                f"{usable_cores()} are no faster here"
            )

    @property
    def cpu_threads(self) -> int:
        """How many threads a CPU backend starts."""
        return self.threads or usable_cores()


DEFAULT = SessionOptions()
