"""Reports to look at: facts of a real bundle with something planted in them, and a benchmark document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from densepack_export.report.facts import Benchmark, BundleFacts
from densepack_runtime.parity.report import ParityReport, QuestionDifference, RungReport

SCRIPT = "<script>alert('report')</script>"
PLANTED = QuestionDifference("planted", f"Who {SCRIPT}?", f"{SCRIPT} one", f"{SCRIPT} two", 0.25, 0.125)


def with_rungs(facts: BundleFacts, *rungs: RungReport) -> BundleFacts:
    """The bundle with these rungs behind those it has."""
    assert facts.parity is not None
    return replace(facts, parity=replace(facts.parity, rungs=(*facts.parity.rungs, *rungs)))


def planted(facts: BundleFacts) -> BundleFacts:
    """A plan that did not run, a rung that failed, and a question with a script in it."""
    failed = RungReport(
        "ONNX INT8",
        "fp16",
        "failed",
        questions=16,
        differing_spans=1,
        span_agreement=93.75,
        failures=("too far",),
        worst=(PLANTED, replace(PLANTED, id="other", question="Who else?", answer="same")),
    )
    return with_rungs(facts, failed, RungReport("plan x", "fp16", "not run", "built, not run"))


def renamed(facts: BundleFacts, name: str, f1: float | None = None) -> BundleFacts:
    """The bundle under another name, with another F1."""
    assert facts.parity is not None
    rungs = tuple(rung if f1 is None else replace(rung, f1=f1) for rung in facts.parity.rungs)
    return replace(facts, name=name, parity=ParityReport("sample", facts.parity.squad_sha256, rungs))


def benchmark(*names: str) -> Benchmark:
    """A document with every section, of a dense side and one packed side of each name, 2, 3, … times as fast."""
    sides = {"a@dense": 1.0, **{f"{name}@packed": 2.0 + place for place, name in enumerate(names)}}
    shapes = [(batch, length) for batch in (1, 8) for length in (128, 384)]
    document: dict[str, Any] = {
        "kind": "densepack benchmark",
        "schema": 2,
        "command": "densepack bench a@dense …",
        "hardware": {"cores": 2, "processor": f"a processor {SCRIPT}", "memory_gib": 4.0, "peak_gflops": 100.0},
        "versions": {"onnxruntime": "1.32.0"},
        "settings": {"rounds": 5},
        "sides": [{"name": side, "backend": "onnxruntime", "precision": "fp32"} for side in sides],
        "latency": [_latency(side, *shape, speed) for shape in shapes for side, speed in sides.items()],
        "ratios": [
            {"side": side, "batch": batch, "length": length, **_ratio(speed)}
            for batch, length in shapes
            for side, speed in list(sides.items())[1:]
        ],
        "squad": {
            "file": "dev.json",
            "questions": 1000,
            "sides": [
                {
                    "side": side,
                    "median_s": 20 / speed,
                    "spread": 0.01,
                    "questions_per_s": 50 * speed,
                    "outside_share": 0.04,
                    "exact_match": 71.25,
                    "f1": 81.125,
                }
                for side, speed in sides.items()
            ],
            "ratios": [{"side": side, **_ratio(speed)} for side, speed in list(sides.items())[1:]],
        },
        "growth": [
            {"side": side, "axis": axis, "value": value, "seconds": value / speed, "peak_rss_mib": 300.0}
            for side, speed in sides.items()
            for axis in ("questions", "threads")
            for value in (1, 2, 100)
        ],
    }
    return Benchmark("bench.json", document)


def _ratio(speed: float) -> dict[str, Any]:
    limit = {"flop_limit": 4.0, "share_of_flop_limit": speed / 4}
    return {"base": "a@dense", "median": speed, "min": speed - 0.25, "max": speed + 0.25, **limit}


def _latency(side: str, batch: int, length: int, speed: float) -> dict[str, Any]:
    milliseconds = batch * length / speed
    return {
        "side": side,
        "batch": batch,
        "length": length,
        "median_ms": milliseconds,
        "min_ms": 0.9 * milliseconds,
        "max_ms": 1.2 * milliseconds,
        "spread": 0.05,
        "windows_per_s": 1e3 * batch / milliseconds,
        "tokens_per_s": 1e3 * batch * length / milliseconds,
        "gflops": 50.0,
        "share_of_peak": None,
    }
