"""Whose a state folder is, so that a run that was killed goes on, and nobody goes on with another one.

settle_state(folder, record, "training", "checkpoint-30", resume=True)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densepack_runtime.errors import InputError
from densepack_runtime.host.files import write_text_atomic

# What may change between a run and its resumption without changing its result.
_FREE = ("save_every", "log_every", "eval_every", "device", "source", "command_line")


def settle_state(folder: Path, record: dict[str, Any], what: str, done: str | None, *, resume: bool) -> None:
    """Make sure that what is in the state folder is this run's. Raises InputError when it is not.

    `what` is a word for the run, `done` how far one is that is there already, None where there is none.
    """
    path = folder / "run.json"
    record = json.loads(json.dumps(record))
    if done is not None and not resume:
        raise InputError(
            f"{folder} holds a {what} already, up to {done}: pass --resume to go on with it, or choose another "
            "--state-dir"
        )
    if done is not None and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changes = sorted(differences(before, record))
        if changes:
            raise InputError(
                f"the {what} in {folder} was started otherwise: {'; '.join(changes)}. Resume it with the settings it "
                "was started with, or choose another --state-dir"
            )
    write_text_atomic(path, json.dumps(record, indent=1) + "\n")


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What of two records is not the same, in words; what may change is left out."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if key not in _FREE:
                yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name} was {before!r} and is {now!r}"
