"""A bundle of which nobody has shown that it answers rightly opens with a warning, and with `--strict` not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from densepack_runtime.bundle import Bundle, ParityEntry, edit_bundle
from tests.command_line import CommandLine, Outcome

LAST = Path(__file__).parents[1] / "last_version"
VERDICTS = {
    "failed its last parity check (1 of 2 rungs within tolerance)": ParityEntry(
        checked=True, summary="1 of 2 rungs within tolerance"
    ),
    "was built with --no-parity": ParityEntry(checked=False),
}


def run(densepack: CommandLine, command: str, bundle: Path, *more: str) -> Outcome:
    arguments = {
        "answer": ("-q", "Who?", "-c", "Chopin was a composer."),
        "eval": ("--squad", str(LAST / "train.json"), "--limit", "2"),
        "doctor": (),
    }
    return densepack(command, bundle, *arguments[command], *more)


@pytest.mark.filterwarnings("always::densepack_runtime.bundle.UnprovenBundleWarning")
@pytest.mark.parametrize("command", ["answer", "eval", "doctor"])
@pytest.mark.parametrize("told", VERDICTS)
def test_an_unproven_bundle_warns_and_is_refused_when_strict(
    tmp_path: Path, densepack: CommandLine, command: str, told: str
) -> None:
    bundle = Path(shutil.copytree(LAST / "bundle", tmp_path / "bundle"))
    assert run(densepack, command, bundle, "--strict").code == 0
    with edit_bundle(Bundle.open(bundle)) as draft:
        draft.manifest = replace(draft.manifest, parity=VERDICTS[told])
    done = run(densepack, command, bundle)
    assert done.code == 0, done.err
    assert f"warning: the bundle {bundle} {told}" in done.err
    done = run(densepack, command, bundle, "--strict")
    assert done.code == 1
    [line] = done.error_lines
    assert f"the bundle {bundle} is not proven: {told}" in line
