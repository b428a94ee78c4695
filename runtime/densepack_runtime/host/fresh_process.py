"""Work in a process of its own: its memory is that of the work alone, and where it ends or hangs this one goes on.

in_fresh_process(measure, argument)                # a function of a module, with what can be pickled
with FreshProcess(Candidate, folder) as process:   # an object that lives there
    process.call("judge", limit_s=60)
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from densepack_runtime.errors import BackendError
from densepack_runtime.host.allocator import keep_freed_memory

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
_GOODBYE_SECONDS = 5.0


def in_fresh_process(
    work: Callable[Parameters, Result], *arguments: Parameters.args, **named: Parameters.kwargs
) -> Result:
    """What `work` returns or raises, there. Raises BackendError when the process dies (killed for memory, for one)."""
    with FreshProcess(partial, work, *arguments, **named) as process:
        result: Result = process.call("__call__")
        return result


class FreshProcess:
    """A process with an object that is made there, of what can be pickled; its methods are called from here."""

    def __init__(self, make: Callable[..., object], *arguments: Any, **named: Any) -> None:
        # Not a fork, which would begin with the memory of this process.
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, partial(make, *arguments, **named)), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def call(self, method: str, *arguments: Any, limit_s: float | None = None) -> Any:
        """What the method returns or raises there.

        Raises BackendError when the process dies, or has no answer within `limit_s`; it is ended then.
        """
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(limit_s):
                self._process.kill()
                raise BackendError(f"it hangs: no answer within {limit_s:g} s")
            raised, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise BackendError(
                f"a process died before it was done{self._how_it_ended()}: was there too little memory?"
            ) from error
        if raised:
            raise result
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()  # which it sees, and goes
        self._process.join(_GOODBYE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _how_it_ended(self) -> str:
        self._process.join(_GOODBYE_SECONDS)
        code = self._process.exitcode
        if code is None:
            return ""
        return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"


def _serve(connection: Connection, make: Callable[[], object]) -> None:
    """Make the object and answer until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C goes to both, and the first process tells of it
    with suppress(EOFError, ConnectionError):  # by its end, or by a signal that ended it first
        _answer(connection, make)


def _answer(connection: Connection, make: Callable[[], object]) -> None:
    os.dup2(2, 1)  # stdout is for the results of the first process
    keep_freed_memory()
    warnings.simplefilter("ignore")  # what is to be warned of was told by the first process
    served: object = None
    while True:
        method, arguments = connection.recv()
        try:
            served = make() if served is None else served
            answer: tuple[bool, Any] = (False, getattr(served, method)(*arguments))
        except Exception as error:  # noqa: BLE001 - the caller's
            answer = (True, error)
        try:
            connection.send(answer)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - what cannot be pickled
            connection.send((True, BackendError(f"{answer[1]!r} cannot be sent: {error}")))
