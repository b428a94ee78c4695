"""Write the tables and pictures of README.md and docs/ again, from result files: make docs.

A block of a document is what stands between `<!-- name -->` and `<!-- end -->`; BLOCKS says what makes each, PICTURES
what draws each file. With --check nothing is written, and the exit code is 1 when something differs from its results.
"""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from densepack_export.card.text import table
from densepack_export.plots.speed import rate_plot
from densepack_export.report.facts import Benchmark
from densepack_export.report.speed import growth_picture
from densepack_runtime.benchmark.tables import growth_table, latency_table, ratio_table, squad_table

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PEERS = REPOSITORY / "tests" / "peers"
RESULTS = PEERS / "results"
FAULTS = REPOSITORY / "tests" / "faults" / "results.json"


def result(name: str) -> dict[str, Any]:
    """What a measurement wrote: a file of tests/peers/results."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def measured() -> str:
    """The README's table: what was measured, what came out, and with what command."""
    rows = [(row["what"], row["result"], f"`{row['command']}`") for row in result("recorded")["rows"]]
    return table(("what", "result", "command"), [*_default_checkpoint(), _packing(), *rows])


def _default_checkpoint() -> list[tuple[str, str, str]]:
    scores, dense, speed = result("eval_default"), result("eval_dense"), result("bench_default")
    told = "; ".join(f"EM {score['exact_match']:.2f} F1 {score['f1']:.2f}" for score in (scores, dense))
    what = f"the embedded checkpoint, all {scores['count']:,} questions of SQuAD v1.1; the dense model it was made from"
    return [
        (what, told, f"`densepack eval BUNDLE --squad {scores['squad']}`"),
        ("the same, packed against its dense shape, on OpenVINO: FP32; BF16; INT8", *_speed(speed)),
    ]


def _packing() -> tuple[str, str, str]:
    what = "the published shape, random weights, packed against dense, on OpenVINO: FP32; BF16; INT8"
    return (what, *_speed(result("bench_packing")))


def _speed(document: dict[str, Any]) -> tuple[str, str]:
    """Times as fast, all sides of a cell together, and the command."""
    cells: dict[str, list[str]] = {}
    for row in document["ratios"]:
        cells.setdefault(f"{row['batch']}x{row['length']}", []).append(f"{row['median']:.2f}")
    told = ", ".join(f"{cell} {'; '.join(medians)}" for cell, medians in cells.items())
    limits = sorted({f"{row['flop_limit']:.2f}" for row in document["ratios"]})
    return f"{told} times as fast (FLOP limit {' to '.join(limits)})", f"`{document['command']}`"


def peers() -> str:
    """The side by side of `make peers`."""
    document = result("peers")
    settings, hardware = document["settings"], document["hardware"]
    versions: dict[str, str] = {}
    for run in document["runs"]:
        own = run["name"].startswith("densepack")
        versions |= {f"{name}{' (densepack)' if own else ''}": value for name, value in run["versions"].items()}
    told = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    rounds = f"medians of {settings['rounds']} interleaved rounds (range)" if settings["rounds"] > 1 else "one round"
    return (
        f"First {settings['questions']:,} questions of {document['squad']}, from the file to EM and F1, "
        f"{settings['threads']} threads, {hardware['cores']} cores of {hardware['processor']}; {rounds}; "
        f"`{document['command']}`.\n\n"
        f"{_script('compare').table(document)}\nVersions: {told}."
    )


# Names in results by what the README calls them.
RIVALS = {
    "transformers 4.57 pipeline, dense": "transformers 4.57 pipeline, the dense model",
    "optimum-onnx pipeline, dense": "optimum-onnx pipeline, the dense model",
    "transformers 4.57 pipeline, pruned as stored": "transformers 4.57 pipeline, the pruned model",
    "the same, packed by nn_pruning": "the same pipeline, packed by nn_pruning",
}


def _rates() -> dict[str, float]:
    """Questions a second of each, with the allocator that a process has by default; medians of the rounds."""
    rates: dict[str, list[float]] = {}
    for run in result("peers")["runs"]:
        if run["allocator"] == "default":
            rates.setdefault(run["name"], []).append(run["questions"] / run["seconds"])
    return {name: statistics.median(found) for name, found in rates.items()}


def against() -> str:
    """densepack against what people use, in one number each."""
    document, rates = result("peers"), _rates()
    hardware, fastest = document["hardware"], rates["densepack, INT8"]
    rows = [
        (told, f"{rates[name]:.1f}", f"{rates['densepack, FP32'] / rates[name]:.1f}", f"{fastest / rates[name]:.1f}")
        for name, told in RIVALS.items()
    ]
    told = (
        f"\nThe first {document['settings']['questions']:,} questions of {document['squad']} through models of the "
        "published shape with random weights, from the file to EM and F1, on "
        f"{hardware['cores']} cores of {hardware['processor']} (`{document['command']}`). "
        "[docs/speed.md](docs/speed.md#against-what-people-use) has all of it."
    )
    return table(("", "questions/s", "densepack FP32, times as fast", "INT8"), rows) + "\n" + told


def against_bars() -> str:
    """The same as a picture."""
    rates = _rates()
    ours = {
        name: name.replace("densepack, dense", "densepack, the dense model") for name in rates if "densepack" in name
    }
    names = {**RIVALS, **ours}
    return rate_plot([(told, rates[name]) for name, told in names.items()], "densepack", "questions a second")


def latency(name: str) -> str:
    """A document of `densepack bench`: ratios to its first side, then the times behind them."""
    document = result(name)
    return f"{_origin(document)}\n\n{table(*ratio_table(document))}\n\n{table(*latency_table(document))}"


def squad(name: str) -> str:
    """A document of `densepack bench --squad`: passes from the file to EM and F1."""
    document = result(name)
    asked = f"First {document['squad']['questions']:,} questions of {document['squad']['file']}. "
    return f"{asked}{_origin(document)}\n\n{table(*squad_table(document))}"


def growth() -> str:
    """How cost grows with the work."""
    document = result("growth")
    return f"{_origin(document)}\n\n{table(*growth_table(document))}"


def growth_curves() -> str:
    """The same as a picture."""
    [picture] = growth_picture(Benchmark("growth.json", result("growth")))
    return picture.svg


def eval_profile() -> str:
    """Where the time of `densepack eval` goes."""
    document = result("eval_profile")
    questions = document["settings"]["questions"]
    return f"First {questions:,} questions of {document['squad']}, {_profiled(document, 'profile_eval')}"


def kernels() -> str:
    """Where the time inside OpenVINO goes."""
    document = result("kernel_profile")
    settings, version = document["settings"], document["versions"]["openvino"]
    asked = f"{settings['batch']} windows of {settings['length']} tokens, openvino {version}"
    return f"{asked}, {_profiled(document, 'profile_kernels')}"


def tried() -> str:
    """What was tried to be faster, and what came of it."""
    rows = [tuple(row[name] for name in ("what", "found", "kept")) for row in result("tried")["rows"]]
    return table(("tried", "found", "kept"), rows)


def faults() -> str:
    """How every kind of fault ended."""
    document = json.loads(FAULTS.read_text(encoding="utf-8"))
    rows = []
    for kind, counts in sorted(document.items()):
        endings = "; ".join(f"{count:,} {ending}" for ending, count in sorted(counts.items(), key=lambda of: -of[1]))
        rows.append((kind, f"{sum(counts.values()):,}", endings))
    return table(("kind", "tries", "how they ended"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "measured": measured,
    "against": against,
    "peers": peers,
    "packing": lambda: latency("bench_packing"),
    "backends": lambda: latency("bench_backends"),
    "precisions": lambda: latency("bench_precisions"),
    "squad": lambda: squad("bench_squad"),
    "eval profile": eval_profile,
    "kernels": kernels,
    "growth": growth,
    "tried": tried,
    "faults": faults,
}
PICTURES: dict[str, Callable[[], str]] = {"against.svg": against_bars, "growth.svg": growth_curves}


def regenerated(text: str) -> str:
    """The text with every known block written again."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if pattern.search(text):
            made = make()
            text = pattern.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    return text


def documents() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]


def main(arguments: list[str]) -> int:
    made = {path: regenerated(path.read_text(encoding="utf-8")) for path in documents()}
    made |= {DOCS / name: draw() for name, draw in PICTURES.items()}
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    check = "--check" in arguments
    for path in stale if not check else ():
        path.write_text(made[path], encoding="utf-8")
    names = ", ".join(path.name for path in stale) or "nothing"
    sys.stderr.write(f"{'stale' if check else 'written'}: {names}\n")
    return 1 if stale and check else 0


def _origin(document: dict[str, Any]) -> str:
    """Where a benchmark ran, how often, and with what command."""
    hardware, versions = document["hardware"], document["versions"]
    names = [f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch") if versions.get(name)]
    rounds = document["settings"]["rounds"]
    return (
        f"{hardware['cores']} cores of {hardware['processor']}, {', '.join(names)}; medians of {rounds} interleaved "
        f"rounds; `{document['command']}`."
    )


def _profiled(document: dict[str, Any], script: str) -> str:
    """Where a profile ran and how often, and the table that its script makes of it."""
    settings, hardware = document["settings"], document["hardware"]
    return (
        f"{settings['threads']} threads, {hardware['cores']} cores of {hardware['processor']}; medians of "
        f"{settings['rounds']} rounds.\n\n{_script(script).table(document)}"
    ).rstrip("\n")


def _script(name: str) -> ModuleType:
    """A script of tests/peers, which is no package: they run beside packages that densepack cannot."""
    sys.path.insert(0, str(PEERS))
    try:
        specification = importlib.util.spec_from_file_location(name, PEERS / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(PEERS))
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
