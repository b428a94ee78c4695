"""The command `doctor`: what is here, and what would run a bundle, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from densepack_runtime.backends import BACKENDS, cache_of, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import (
    JsonOption,
    StrictOption,
    app,
)
from densepack_runtime.errors import BackendError
from densepack_runtime.host.console import print_json, print_table
from densepack_runtime.host.flavours import FLAVOURS
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.host_record import HostRecord
from densepack_runtime.tensorrt_plans.choice import misfit


@app.command()
def doctor(
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="Also say how this bundle would run here.")
    ] = None,
    strict: StrictOption = False,
    json_output: JsonOption = False,
) -> None:
    """What is here: GPU, providers, versions; and what would run a bundle, and why.

    Example: densepack doctor bundle
    """
    from densepack_runtime.host.versions import package_versions
    from densepack_runtime.sessions.onnxruntime_session import onnxruntime_conflict

    host = Host.here()
    facts: dict[str, Any] = {
        "NVIDIA GPU": [str(gpu) for gpu in host.gpus],
        "driver": f"for CUDA {host.gpu.driver_cuda}" if host.gpu else None,
        **{f"{flavour} installed": host.tensorrt.get(flavour) for flavour in FLAVOURS},
        "onnxruntime providers": list(host.onnxruntime_providers),
        **{f"backend {name}": list(backend.precisions_on(host)) for name, backend in BACKENDS.items()},
        "conflict": onnxruntime_conflict(),
        **package_versions(),
    }
    if bundle is not None:
        facts.update(_bundle_facts(Bundle.open(bundle, strict=strict), host))
    if json_output:
        print_json(facts)
    else:
        print_table("This host", ("what", "value"), [(name, _shown(value)) for name, value in facts.items()])


def _bundle_facts(bundle: Bundle, host: Host) -> dict[str, Any]:
    """How each plan of a bundle fits this host, and what `auto` would open."""
    facts: dict[str, Any] = {"bundle": str(bundle.folder)}
    for entry in bundle.manifest.engines:
        facts[entry.plan] = misfit(entry, host, bundle.folder) or f"fits {host.gpu}"
    try:
        facts["would open"] = str(choose_backend(bundle, host=host))
    except BackendError as error:
        facts["would open"] = f"nothing: {error}"
    record = HostRecord.load(cache_of(bundle), bundle.sha256, host)
    for proof in record.proofs if record else ():
        facts[f"proven: {proof.backend} {proof.precision}"] = "; ".join(proof.findings) or proof.told_times
    fastest = record.fastest() if record else None
    facts["fastest"] = (
        f"{fastest.backend} {fastest.precision}" if fastest else f"unknown: densepack prove {bundle.folder}"
    )
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
