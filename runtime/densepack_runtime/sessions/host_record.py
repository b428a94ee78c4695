"""What a host has proven of a bundle: which backends and precisions are right here, and how fast they are.

    record = HostRecord.load(folder, bundle_sha256, host)
    record.fastest().precision

`densepack prove` writes it where backends keep what they compile, a file for every host that shares the place. It is
true for one host, one set of versions and one bundle; for any other there is none.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from densepack_runtime.errors import BackendError
from densepack_runtime.host.cores import cpu_quota, physical_cores
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.here import Host
from densepack_runtime.host.machine import processor_features
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.host.versions import package_versions
from densepack_runtime.sessions.session import ComputePrecision

RECORD = Document("the host's record", BackendError, "prove the bundle again: densepack prove BUNDLE")
_NAME = "proof-{}.json"
# Packages that build and compare bundles change nothing in how one runs.
_FOREIGN = ("torch", "transformers", "onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Proof:
    """One backend in one precision, with what was found wrong. `milliseconds` of a batch are by its shape ("8x384")."""

    backend: str
    precision: ComputePrecision
    findings: tuple[str, ...] = ()
    span_agreement: float | None = None
    max_abs_logit: float | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    peak_mib: float | None = None
    plan: str = ""

    @property
    def passed(self) -> bool:
        return not self.findings

    @property
    def told_times(self) -> str:
        return ", ".join(f"{shape} {time:.3g} ms" for shape, time in self.milliseconds.items())

    @property
    def derived(self) -> dict[str, bool]:
        return {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What was proven of a bundle, on which host."""

    host: dict[str, str]
    bundle_sha256: str
    proofs: tuple[Proof, ...]

    @classmethod
    def load(cls, folder: Path, bundle_sha256: str, host: Host) -> HostRecord | None:
        """The record of this host in a folder; None where there is none. Raises BackendError when it is damaged."""
        path = folder / _name(host_facts(host), bundle_sha256)
        try:
            return RECORD.parse(path.read_bytes(), cls)
        except OSError:
            return None

    def save(self, folder: Path) -> Path:
        """Write the record; returns where it is."""
        path = folder / _name(self.host, self.bundle_sha256)
        write_text_atomic(path, json.dumps(data_from_record(self), indent=1) + "\n")
        return path

    def fastest(self, admitted: Callable[[Proof], bool] = lambda _: True) -> Proof | None:
        """What passed and is fastest over all measured shapes alike (the geometric mean of its times)."""
        able = [proof for proof in self.proofs if proof.passed and proof.milliseconds and admitted(proof)]
        return min(able, key=_mean_time, default=None)


def host_facts(host: Host) -> dict[str, str]:
    """What decides how a bundle runs here: processor, cores, quota, GPU, driver, versions of what runs it."""
    versions = {name: found for name, found in package_versions().items() if name not in _FOREIGN}
    return {
        "processor": processor_features(),
        "instruction sets": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "cores": str(physical_cores()),
        "quota": str(cpu_quota()),
        "GPU": str(host.gpu),
        **versions,
    }


def _mean_time(proof: Proof) -> float:
    return math.fsum(math.log(time) for time in proof.milliseconds.values()) / len(proof.milliseconds)


def _name(facts: dict[str, str], bundle_sha256: str) -> str:
    decides = json.dumps([facts, bundle_sha256], sort_keys=True)
    return _NAME.format(hashlib.sha256(decides.encode()).hexdigest()[:16])
