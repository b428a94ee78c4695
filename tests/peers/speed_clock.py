"""What every contestant has in common: read a SQuAD file, answer, score; the clock runs from the file to EM and F1.

Loading and a warm-up of a few questions are timed apart, and imports are not timed. One process is one run; the result
is one line of JSON on stdout. Scores come from densepack's metric for all, so that the clock stops at the same thing.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from densepack_runtime.question_answering.squad import SquadDataset, read_squad, score_predictions

WARM_UP_QUESTIONS = 8
PACKAGES = ("torch", "transformers", "nn_pruning", "optimum-onnx", "onnxruntime", "openvino", "tokenizers", "numpy")

Predict = Callable[[SquadDataset], dict[str, str]]


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="checkpoint folder or bundle")
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


def run(options: argparse.Namespace, load: Callable[[], Predict]) -> None:
    """Load, warm up, then time one pass; prints the record of the run."""
    start = time.perf_counter()
    predict = load()
    loaded = time.perf_counter()
    predict(read_squad(options.squad, limit=WARM_UP_QUESTIONS))
    warm = time.perf_counter()
    dataset = read_squad(options.squad, limit=options.questions)
    score = score_predictions(dataset, predict(dataset))
    seconds = time.perf_counter() - warm
    record = {
        "seconds": seconds,
        "questions": score.count,
        "load_seconds": loaded - start,
        "warm_up_seconds": warm - loaded,
        "exact_match": score.exact_match,
        "f1": score.f1,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": _versions(),
    }
    sys.stdout.write(json.dumps(record) + "\n")


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
