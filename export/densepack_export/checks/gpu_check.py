"""`make gpu-check`: everything that only a GPU can show, in one JSON verdict.

    python -m densepack_export.checks.gpu_check models/checkpoints/default --squad dev-v1.1.json --out gpu-check.json

Runs the tests marked `gpu`, builds FP16 and FP32 plans of the default checkpoint and of the published shape, climbs the
parity ladder with them, and measures dense against packed. A step that fails is recorded and the next one goes on; the
exit code is 0 when all hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from densepack_export.bench.sides import open_side
from densepack_export.build import BuildOptions, build_bundle
from densepack_export.bundle_changes import add_plan
from densepack_export.plans.into_bundle import PlanRequest
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.benchmark.document import run_benchmark
from densepack_runtime.benchmark.sides import Cell
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import LimitOption
from densepack_runtime.errors import BackendError, DensepackError, ParityError
from densepack_runtime.host.allocator import keep_freed_memory
from densepack_runtime.host.console import print_table, run_command_line, tell, told_here
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.versions import package_versions
from densepack_runtime.question_answering.squad import load_squad
from densepack_runtime.sessions.session import Precision

KIND = "densepack gpu-check"
SCHEMA = 1
CELLS = tuple(Cell(batch, length) for batch in (1, 8, 32, 128) for length in (128, 384))
_TESTS = Path(__file__).resolve().parents[3] / "tests"
_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Verdict:
    """The document: what is here, and every step with what it gave or why it failed."""

    host: dict[str, Any]
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def step(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do one step and record it; errors of ours are recorded, everything else is a fault of this program."""
        tell(f"{name} …")
        began = time.perf_counter()
        try:
            outcome = {"passed": True, **work()}
        except DensepackError as error:
            outcome = {"passed": False, "error": str(error)}
        self.steps[name] = {**outcome, "seconds": time.perf_counter() - began}

    @property
    def passed(self) -> bool:
        return all(step["passed"] for step in self.steps.values())

    def as_dict(self) -> dict[str, Any]:
        return {"kind": KIND, "schema": SCHEMA, "passed": self.passed, "host": self.host, "steps": self.steps}

    def rows(self) -> list[tuple[str, str, str]]:
        """(step, verdict, why) for a table."""
        return [
            (name, "passed" if step["passed"] else "FAILED", str(step.get("error", ""))[:100])
            for name, step in self.steps.items()
        ]


@app.command()
def gpu_check(
    checkpoint: Annotated[Path, typer.Argument(help="The default checkpoint.")],
    squad: Annotated[str, typer.Option(help="A SQuAD v1.1 file, or `sample`.")] = "sample",
    limit: LimitOption = None,
    out: Annotated[Path, typer.Option(help="The verdict, JSON.")] = Path("gpu-check.json"),
) -> None:
    """Test, build, prove and measure on this host's GPU."""
    gpus = Host.here().gpus
    if not gpus:
        raise BackendError("there is no NVIDIA GPU here, or its driver is not installed: nothing was checked")
    verdict = Verdict({"gpus": [gpu.as_dict() for gpu in gpus], "versions": package_versions()})
    with TemporaryDirectory(prefix="densepack-gpu-") as folder:
        bundle, seed, replica = (Path(folder) / name for name in ("default", "seed", "replica"))
        verdict.step("tests", _run_tests)
        verdict.step("default: build and parity", lambda: _build(checkpoint, bundle, squad, limit))
        verdict.step("default: fp32 plan", lambda: _add_engine(bundle, "fp32"))
        verdict.step("seed: build", lambda: _build_seed(checkpoint, replica, seed))
        verdict.step("seed: fp32 plan", lambda: _add_engine(seed, "fp32"))
        verdict.step("benchmark", _measure)
        write_text_atomic(out, json.dumps(verdict.as_dict(), indent=1, ensure_ascii=False) + "\n")
    print_table("gpu-check", ("step", "verdict", "why"), verdict.rows())
    tell(f"wrote {out}")
    if not verdict.passed:
        raise ParityError(f"not everything holds on {gpus[0].name}: see {out}")


def _run_tests() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(_TESTS)], check=False)
    if done.returncode:
        raise ParityError(f"the tests marked gpu ended with exit code {done.returncode}")
    return {}


def _build(checkpoint: Path, bundle: Path, squad: str, limit: int | None) -> dict[str, Any]:
    """A bundle with an FP16 plan; the ladder includes the plan, and the typed module on the GPU."""
    options = BuildOptions(squad=load_squad(squad, limit), squad_name=Path(squad).name, engine=True)
    result = build_bundle(checkpoint, bundle, options, told_here())
    return {
        "engine": data_from_record(result.engine),
        "parity": result.parity.as_dict() if result.parity is not None else None,
    }


def _build_seed(checkpoint: Path, replica: Path, bundle: Path) -> dict[str, Any]:
    """The published shape with random weights: built and measured, there is nothing to answer."""
    tokenizer = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    random_checkpoint(replica, SEED, tokenizer_json=tokenizer)
    options = BuildOptions(squad=load_squad("sample", 32), parity=False, engine=True)
    result = build_bundle(replica, bundle, options, told_here())
    return {"engine": data_from_record(result.engine)}


def _add_engine(bundle: Path, precision: Precision) -> dict[str, Any]:
    story = told_here()
    return {"engine": data_from_record(add_plan(Bundle.open(bundle), PlanRequest(precision=precision), story))}


def _measure() -> dict[str, Any]:
    """Dense against packed in TensorRT, ONNX Runtime and PyTorch, FP16, interleaved."""
    names = [f"seed@{shape}-{kind}" for kind in ("tensorrt", "cuda", "torch-cuda") for shape in ("dense", "packed")]
    with ExitStack() as opened:
        sides = [open_side(name, opened) for name in names]
        document = run_benchmark(sides, CELLS, on_step=tell)
    return {"benchmark": document}


if __name__ == "__main__":
    keep_freed_memory()
    run_command_line(app)
