"""Work in a process of its own, whose memory is that of the work and nothing else.

in_fresh_process(measure, argument)            # a function of a module, with what can be pickled
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from densepack_runtime.errors import BackendError
from densepack_runtime.host.allocator import keep_freed_memory

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def in_fresh_process(
    work: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
) -> Result:
    """What `work` returns or raises, there. Raises BackendError when the process dies (killed for memory, for one)."""
    # Not a fork, which would begin with the memory of this process.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare) as pool:
        try:
            return pool.submit(work, *arguments, **named).result()
        except BrokenProcessPool as error:
            raise BackendError(
                "a process that was started to measure in died before it was done: was there too little memory?"
            ) from error


def _prepare() -> None:
    """As the command line does at its start; what is to be warned of was told by the first process."""
    keep_freed_memory()
    warnings.simplefilter("ignore")
