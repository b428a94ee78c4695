"""Every command that writes, ended by a signal at a random moment: what is there is whole, and the next run works."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.faults.commands import COMMANDS, Command, Running, start, timed
from tests.faults.kinds.kind import HALF, LOST, TRACEBACK, kind

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EACH = 21


@kind("signals", tries=EACH * len(COMMANDS), quick=2)
def signals(seed: int, folder: Path) -> Iterator[str]:
    """Every signal for one command, then for the next; half of the runs replace an output that is there."""
    chance = random.Random(seed)
    durations: dict[str, float] = {}
    for number, name in enumerate(itertools.cycle(COMMANDS)):
        command, place, done = COMMANDS[name], folder / "place", folder / f"done-{name}"
        if name not in durations:
            command.prepare(done)
            durations[name] = timed(command, done, folder / "log")
        for sent, there in itertools.product(SIGNALS, (False, True)):
            shutil.rmtree(place, ignore_errors=True)
            if there:
                shutil.copytree(done, place)
            else:
                command.prepare(place)
            yield _one(command, place, sent, chance.uniform(0, durations[name]), folder / f"log-{number}-{name}")


def _one(command: Command, place: Path, sent: signal.Signals, moment: float, log: Path) -> str:
    log.unlink(missing_ok=True)
    was_there = command.output(place).exists()
    running = start(command.command_line(place, again=True), log)
    time.sleep(moment)
    with suppress(ProcessLookupError):  # it was done already
        os.kill(running.pid, sent)
    code = running.wait()
    return f"{sent.name}: {_judged(command, place, running, was_there) or ('ended' if code else 'was done')}"


def _judged(command: Command, place: Path, stopped: Running, was_there: bool) -> str | None:
    """What is wrong, if anything."""
    output = command.output(place)
    if "Traceback" in stopped.told:
        return f"{TRACEBACK}: {command.name}: {stopped.told[-300:]}"
    if was_there and not output.exists():
        return f"{LOST}: {command.name}"
    if output.exists():
        try:
            command.check(output)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not whole
            return f"{HALF}: {command.name}: {error}"
    try:
        timed_again = start(command.command_line(place, again=True), stopped.log)
        if timed_again.wait() != 0:
            return f"{LOST}: the next run of {command.name} fails: {timed_again.told[-300:]}"
        command.check(output)
    except Exception as error:  # noqa: BLE001
        return f"{HALF}: {command.name}, the next run: {error}"
    return None
