"""Every error that densepack raises on purpose, in one tree.

    DensepackError
    ├── InputError               a question, a context, a SQuAD file or a request that cannot be answered
    ├── CheckpointError          a checkpoint that cannot be read, or is not of a supported kind
    ├── BundleError              a bundle that is damaged, incomplete or from elsewhere
    ├── BackendError             a backend, provider, device or engine that is not what was asked for
    ├── ExportError              a graph or an engine that could not be made, or is not as promised
    │   └── EngineBuildError     TensorRT refused the graph or gave no plan
    ├── ParityError              a gate closed: two rungs do not agree, or FP16 would overflow
    ├── UnavailableError         a server that cannot answer now: it starts, or it ends
    │   ├── QueueFullError       it has as much to do as it takes on
    │   └── DeadlineError        the answer was not there in time
    ├── ReloadError              a bundle that did not take the place of the one that is served
    └── MissingDependencyError   a known optional package is not installed (also an ImportError)

A message says what failed, the value seen and what to do about it. The command line prints the message as one line
`error: …` and exits 1; a traceback appears only with `--debug`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

# What one line can tell: so many faults of a file, each in so many characters.
MOST_FAULTS, LONGEST_FAULT = 200, 400


class DensepackError(Exception):
    """Root of the tree: catch this to catch everything densepack raises on purpose."""


class InputError(DensepackError):
    """A question, a context, a data file or an option value that cannot be used."""


class CheckpointError(DensepackError):
    """A checkpoint that cannot be read, is damaged, or is of an unsupported kind."""


class BundleError(DensepackError):
    """A bundle that is damaged, incomplete, or was not written by densepack."""


class BackendError(DensepackError):
    """A backend, provider, device or engine that is not what was asked for."""


class ExportError(DensepackError):
    """A graph or an engine that could not be made, or did not come out as promised."""


class EngineBuildError(ExportError):
    """TensorRT refused the graph, logged an error, or returned no plan."""


class ParityError(DensepackError):
    """A gate closed: two rungs of the ladder disagree, or a value leaves the range of FP16."""


class UnavailableError(DensepackError):
    """A server that cannot answer now; another one, or a later try, may."""


class QueueFullError(UnavailableError):
    """A server with as much to do as it takes on, which it has done in about `wait_s` seconds."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class DeadlineError(UnavailableError):
    """An answer that was not there in time."""


class ReloadError(DensepackError):
    """A bundle that did not take the place of the one that is served."""


class MissingDependencyError(DensepackError, ImportError):
    """A known optional package is not installed; the message names the extra that brings it."""


def require(module_name: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Only the absence of the package itself becomes `MissingDependencyError`; any other ImportError (a broken
    installation, a missing shared library) keeps its own traceback.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module_name.split(".")[0]:
            raise
        package = module_name.split(".")[0]
        raise MissingDependencyError(
            f"the package '{package}' is needed for this and is not installed: pip install 'densepack[{extra}]'"
        ) from error


def named(names: Sequence[str], most: int = 5) -> str:
    """The first of many: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def joined(faults: Sequence[str], separator: str = "; ") -> str:
    """The faults of a file in one line: long ones cut short, and of very many the first."""
    told = [fault if len(fault) <= LONGEST_FAULT else f"{fault[:LONGEST_FAULT]}…" for fault in faults[:MOST_FAULTS]]
    more = [f"and {len(faults) - MOST_FAULTS:,} more"] if len(faults) > MOST_FAULTS else []
    return separator.join(told + more)
