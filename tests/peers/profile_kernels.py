"""Where the time inside OpenVINO goes, by kind of kernel, as its own counters tell.

python profile_kernels.py packed.bundle --batch 8 --length 384 --rounds 5 --precisions fp32,bf16,int8
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from provenance import provenance

from densepack_runtime.benchmark.sides import Cell, synthetic_batch
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.sessions.openvino_session import OpenVinoSession, import_openvino
from densepack_runtime.sessions.options import SessionOptions

KIND = "densepack kernel profile"
# Kinds that take less than this share of the time in every precision are told together.
SMALL = 0.005
REST = "everything else"


def main() -> None:
    options = _options()
    keep_freed_memory()  # as the command `densepack` does
    warnings.simplefilter("ignore")  # random weights: the bundle was not checked, and says so
    graph = Bundle.open(options.bundle).graph("fp32")
    batch = synthetic_batch(Cell(options.batch, options.length))
    runs: list[dict[str, Any]] = []
    for precision in options.precisions.split(","):
        with closing(_counting_session(graph, precision, options.threads)) as session:
            session.run(batch)  # compiles the kernels for this shape
            for number in range(options.rounds):
                session.run(batch)
                runs.append({"round": number, "precision": precision, "ms": _milliseconds(session)})
    settings = {name: getattr(options, name) for name in ("batch", "length", "rounds", "threads")}
    head = {"kind": KIND, "bundle": Path(options.bundle).name, "settings": settings}
    document = head | provenance("openvino") | {"runs": runs}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(document))


def table(document: dict[str, Any]) -> str:
    """Markdown: milliseconds and share of each kind of kernel, by precision, medians over rounds."""
    runs: list[dict[str, Any]] = document["runs"]
    precisions = list(dict.fromkeys(run["precision"] for run in runs))
    medians = {name: _medians([run["ms"] for run in runs if run["precision"] == name]) for name in precisions}
    totals = {name: sum(medians[name].values()) for name in precisions}
    kinds = {kind for of in medians.values() for kind in of}
    large = [kind for kind in kinds if any(medians[name][kind] >= SMALL * totals[name] for name in precisions)]
    large.sort(key=lambda kind: (-medians[precisions[0]][kind], kind))
    lines = [
        f"| kernels | {' | '.join(f'{name.upper()}, ms' for name in precisions)} |",
        "|---|" + "---|" * len(totals),
    ]
    for kind in (*large, REST):
        told = []
        for name in precisions:
            ms = medians[name][kind] if kind != REST else totals[name] - sum(medians[name][one] for one in large)
            told.append(f"{ms:,.1f} ({ms / totals[name]:.1%})")
        lines.append(f"| {kind} | {' | '.join(told)} |")
    lines.append(f"| all | {' | '.join(f'{totals[name]:,.1f}' for name in precisions)} |")
    return "\n".join(lines) + "\n"


def _medians(rounds: list[dict[str, float]]) -> Counter[str]:
    kinds = {kind for of in rounds for kind in of}
    return Counter({kind: median(of.get(kind, 0.0) for of in rounds) for kind in kinds})


def _counting_session(graph: Path, precision: Any, threads: int) -> OpenVinoSession:
    """A session as densepack opens it, with OpenVINO's counters on."""
    openvino: Any = import_openvino()
    core = openvino.Core()
    core.set_property("CPU", {"PERF_COUNT": True})
    with patch.object(openvino, "Core", lambda: core):
        return OpenVinoSession(graph, precision=precision, options=SessionOptions(threads=threads))


def _milliseconds(session: OpenVinoSession) -> dict[str, float]:
    """Of the last run, by kind of node."""
    found: Counter[str] = Counter()
    for node in session._request.profiling_info:
        found[node.node_type] += node.real_time.total_seconds() * 1e3
    return {kind: round(ms, 3) for kind, ms in found.items() if ms}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kernel_profile.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
