"""The command `prove`: what of a bundle is right on this host, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from densepack_runtime.backends import cache_of, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import BundleArgument, CacheOption, JsonOption, app
from densepack_runtime.errors import BackendError, ParityError
from densepack_runtime.host.console import print_json, print_table, progress_bar, tell, tell_next
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.parity.proving import ROUNDS, contenders, prove, shapes_of
from densepack_runtime.sessions.host_record import HostRecord, Proof, host_facts


@app.command("prove")
def prove_here(bundle: BundleArgument, cache: CacheOption = None, json_output: JsonOption = False) -> None:
    """Try every backend and precision on this host, each in a process of its own; `--precision fastest` takes the best.

    Exit 1 when what is taken by default is wrong here. Example: densepack prove bundle
    """
    opened, host = Bundle.open(bundle), Host.here()
    choices = contenders(opened, host)
    if not choices:
        raise BackendError(f"nothing that is installed here runs {bundle}: pip install 'densepack[cpu]' or [openvino]")
    default = choose_backend(opened, host=host)
    with progress_bar("proving", total=len(choices) + ROUNDS * len(shapes_of(opened))) as advance:
        proofs = prove(opened, choices, told=lambda text: advance(1, text))
    record = HostRecord(host_facts(host), opened.sha256, proofs)
    _keep(record, opened, cache)
    if json_output:
        print_json(data_from_record(record))
    else:
        shapes = [f"{rows}x{length}" for rows, length in shapes_of(opened)]
        columns = ("backend", "verdict", "same spans", "max |Δlogit|", *(f"{shape} ms" for shape in shapes), "MiB")
        print_table(f"{bundle} on this host", columns, [_row(proof, shapes) for proof in proofs])
    for proof in proofs:
        for finding in proof.findings:
            tell(f"{_name(proof)}: {finding}")
    for proof in proofs:
        if (proof.backend, proof.precision) == (default.backend, default.precision) and not proof.passed:
            raise ParityError(f"{_name(proof)}, which is taken here by default, is wrong: {'; '.join(proof.findings)}")
    tell_next(f"densepack answer {bundle} --precision fastest", "or densepack serve, which takes that by default")


def _keep(record: HostRecord, bundle: Bundle, cache: Path | None) -> None:
    """Write the record, where that can be done."""
    folder = cache or cache_of(bundle)
    try:
        tell(f"wrote {record.save(folder)}")
    except OSError as error:
        tell(f"the record is not kept ({error}): --cache FOLDER names another place, here and where it is to be read")


def _row(proof: Proof, shapes: Sequence[str]) -> tuple[str, ...]:
    return (
        _name(proof),
        "right" if proof.passed else "wrong",
        "" if proof.span_agreement is None else f"{proof.span_agreement:.2f} %",
        "" if proof.max_abs_logit is None else f"{proof.max_abs_logit:.2g}",
        *(f"{proof.milliseconds[shape]:.2f}" if shape in proof.milliseconds else "" for shape in shapes),
        "" if proof.peak_mib is None else f"{proof.peak_mib:.0f}",
    )


def _name(proof: Proof) -> str:
    return f"{proof.backend} {proof.precision}"
