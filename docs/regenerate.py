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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from densepack_export.card.text import table
from densepack_export.plots.speed import ratio_plot
from densepack_export.report.facts import Benchmark
from densepack_export.report.speed import growth_picture
from densepack_runtime.benchmark.tables import growth_table, latency_table, ratio_table, squad_table

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PEERS = REPOSITORY / "tests" / "peers"
RESULTS = PEERS / "results"
FAULTS = REPOSITORY / "tests" / "faults" / "results.json"
EXTRAS = REPOSITORY / "tests" / "extras.json"
# Load tests by backend, and what they call our server.
LOADS = ("load_openvino", "load_onnxruntime")
AMX_LOADS = ("load_openvino_bf16_amx", "load_openvino_amx", "load_onnxruntime_amx")
AS_IT_IS, OUR_SERVER = "as it is", "`densepack serve`"
FACTS = (("per_second", 1), ("p50_ms", 0), ("p99_ms", 0))


def result(name: str) -> dict[str, Any]:
    """What a measurement wrote: a file of tests/peers/results."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def claim() -> str:
    """What densepack gives, in one number."""
    ours, theirs = _rates()["densepack, FP32"], _rates()[FIRST_RIVAL]
    return (
        f"**Pruned to the published shape, a BERT-base answers {ours / theirs:.1f} times as many questions a second\n"
        "as the dense one did in the pipeline of transformers 4, on the same two cores of a CPU.**"
    )


def measured() -> str:
    """The README's figures, one a row."""
    small, dense = result("eval_default"), result("eval_dense")
    rows = [
        (f"F1 of the embedded checkpoint on all {small['count']:,} questions of SQuAD v1.1", f"{small['f1']:.2f}"),
        ("F1 of the dense model that it was made from", f"{dense['f1']:.2f}"),
        ("the embedded checkpoint, packed, times as fast as dense, FP32", _times_as_fast("bench_default", "openvino")),
        ("the published shape, packed, times as fast as dense, FP32", _times_as_fast("bench_packing", "openvino")),
        ("the same in INT8", _times_as_fast("bench_packing", "openvino-int8")),
    ]
    told = (
        f"\n{_hardware(result('bench_packing'))} (the embedded checkpoint on one with AVX2, the published shape on one "
        "with AVX-512), OpenVINO, 8 windows of 384 tokens. [docs/speed.md](docs/speed.md) has every figure with its "
        "command."
    )
    return table(("what", "figure"), rows) + "\n" + told


def _times_as_fast(name: str, backend: str) -> str:
    """How many times as fast the packed side is at 8 windows of 384 tokens."""
    [row] = [
        row
        for row in result(name)["ratios"]
        if (row["batch"], row["length"]) == (8, 384) and row["side"].endswith(f"@packed-{backend}")
    ]
    return f"{row['median']:.1f}"


def scores() -> str:
    """EM and F1 of the embedded checkpoint and of the model that it was made from."""
    models = {"the embedded checkpoint": "eval_default", "the dense model that it was made from": "eval_dense"}
    found = {told: result(name) for told, name in models.items()}
    [[count, squad]] = {(score["count"], score["squad"]) for score in found.values()}
    rows = [(told, f"{score['exact_match']:.2f}", f"{score['f1']:.2f}") for told, score in found.items()]
    told = f"All {count:,} questions of {squad}; `densepack eval BUNDLE --squad {squad}`."
    return f"{told}\n\n{table(('', 'EM', 'F1'), rows)}"


def recorded() -> str:
    """What was measured once and takes too long to be measured often."""
    rows = result("recorded")["rows"]
    return "\n".join(f"- **{row['what']}**: {row['result']} (`{row['command']}`)." for row in rows)


def peers(name: str = "peers") -> str:
    """The side by side of `make peers`."""
    document = result(name)
    settings = document["settings"]
    theirs, ours = _versions(document, own=False), _versions(document, own=True)
    versions = [(name, theirs.get(name, ""), ours.get(name, "")) for name in sorted({**theirs, **ours})]
    rounds = f"medians of {settings['rounds']} interleaved rounds (range)" if settings["rounds"] > 1 else "one round"
    return (
        f"First {settings['questions']:,} questions of {document['squad']}, from the file to EM and F1, "
        f"{settings['threads']} threads, {_hardware(document)}; {rounds}; `{document['command']}`.\n\n"
        f"{_script('compare').table(document)}\n{table(('version of', 'theirs', 'ours'), versions)}"
    )


def _versions(document: dict[str, Any], *, own: bool) -> dict[str, str]:
    """Packages of the runs of densepack, or of the others."""
    runs = [run for run in document["runs"] if run["name"].startswith("densepack") == own]
    return {name: version for run in runs for name, version in run["versions"].items()}


# Names in results by what the README calls them.
FIRST_RIVAL = "transformers 4.57 pipeline, dense"
RIVALS = {
    FIRST_RIVAL: "transformers 4.57 pipeline, the dense model",
    "optimum-onnx pipeline, dense": "optimum-onnx pipeline, the dense model",
    "transformers 4.57 pipeline, pruned as stored": "transformers 4.57 pipeline, the pruned model",
    "the same, packed by nn_pruning": "transformers 4.57 pipeline, packed by nn_pruning",
}
# The kinds of processor that everything ran on, by its results.
HOSTS = {"peers": "AVX-512 with VNNI and BF16", "peers_avx2": "AVX2"}
# What the README's table has of them; the picture has all.
SHOWN = (
    FIRST_RIVAL,
    "optimum-onnx pipeline, dense",
    "the same, packed by nn_pruning",
    "densepack, FP32",
    "densepack, INT8",
)


def _rates(name: str = "peers") -> dict[str, float]:
    """Questions a second of each, with the allocator that a process has by default; medians of the rounds."""
    rates: dict[str, list[float]] = {}
    for run in result(name)["runs"]:
        if run["allocator"] == "default":
            rates.setdefault(run["name"], []).append(run["questions"] / run["seconds"])
    return {name: statistics.median(found) for name, found in rates.items()}


def against() -> str:
    """densepack against what people use."""
    document, rates, amx = result("peers"), _rates(), _rates("peers_amx")
    first = rates[FIRST_RIVAL]
    shown = {name: RIVALS.get(name, f"{name}, the pruned model") for name in SHOWN}
    rows = [(told, f"{rates[name]:.1f}", f"{rates[name] / first:.1f}") for name, told in shown.items()]
    told = (
        f"\nThe first {document['settings']['questions']:,} questions of {document['squad']}, from the file to EM and "
        f"F1, through models of the published shape with random weights, on {_hardware(document)} "
        f"(`{document['command']}`). [All of them](docs/speed.md#against-what-people-use), with memory and BF16. On a "
        f"processor with AMX, INT8 answers {amx['densepack, INT8'] / amx[FIRST_RIVAL]:.1f} times as many as the first."
    )
    return table(("", "questions a second", "times the first"), rows) + "\n" + told


def against_bars() -> str:
    """The same as a picture, on both kinds of processor, as ratios to the first."""
    ratios: dict[str, dict[str, float]] = {}
    for document, host in HOSTS.items():
        rates = _rates(document)
        ours = {name: name.replace("dense,", "the dense model,") for name in rates if name.startswith("densepack")}
        for name, told in (RIVALS | ours).items():
            ratios.setdefault(told, {})[host] = rates[name] / rates[FIRST_RIVAL]
    return ratio_plot(ratios, "densepack", "questions a second, as multiples of the last one's")


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


def eval_profile(name: str) -> str:
    """Where the time of `densepack eval` goes."""
    document = result(name)
    questions = document["settings"]["questions"]
    return f"First {questions:,} questions of {document['squad']}, {_profiled(document, 'profile_eval')}"


def kernels(name: str) -> str:
    """Where the time inside OpenVINO goes."""
    document = result(name)
    settings, version = document["settings"], document["versions"]["openvino"]
    asked = f"{settings['batch']} windows of {settings['length']} tokens, openvino {version}"
    return f"{asked}, {_profiled(document, 'profile_kernels')}"


def tried() -> str:
    """What was tried to be faster, and what came of it."""
    rows = result("tried")["rows"]
    return "\n\n".join(
        f"**{row['what'][0].upper()}{row['what'][1:]}.** {row['found']}. *Kept: {row['kept']}.*" for row in rows
    )


def faults() -> str:
    """How every kind of fault ended, the commonest ending first."""
    document = json.loads(FAULTS.read_text(encoding="utf-8"))
    rows = [
        (kind, ending, f"{count:,}")
        for kind, counts in sorted(document.items())
        for ending, count in sorted(counts.items(), key=lambda of: -of[1])
    ]
    return table(("kind", "how it ended", "tries"), rows)


def loads(names: Iterable[str] = LOADS) -> str:
    """Servers under load, by backend: rounds over many connections, in the middle and least to most beside ours."""
    documents = [result(name) for name in names]
    parts = [_load(document) for document in documents]
    document, settings = documents[-1], documents[-1]["settings"]
    told = f"{settings['requests']:,} requests with questions of {document['squad']} over {document['connections']} "
    rounds = f"connections, 5 % of them bad, {settings['rounds']} interleaved rounds, the one in the middle"
    command = f"`python -m tests.runtime.serving.loads BUNDLE --squad {document['squad']} --backend BACKEND`"
    return "\n\n".join([*parts, f"{told}{rounds}; {_hardware(document)}; {command}."])


def _load(document: dict[str, Any]) -> str:
    """The table of one load test."""
    rows = []
    for server, middle, ratios in _beside(document["runs"], AS_IT_IS):
        against = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rates = (f"{middle['per_second']:.1f}", f"{middle['p50_ms']:,.0f}", f"{middle['p99_ms']:,.0f}")
        rows.append((server, *rates, "" if server == AS_IT_IS else against))
    rows.append(("`answer_many`, no server", f"{document['library_per_second']:.1f}", "", "", ""))
    told = f"{document['settings']['backend']} {document['settings']['precision']}"
    return table((told, "questions/s", "p50 ms", "p99 ms", "ours beside it"), rows)


def as_they_come(name: str = LOADS[0]) -> str:
    """What the server answers at rates up to twice what it can, and what its simulation expects."""
    document = result(name)
    rows = [
        (
            f"{one['rate']:.1f} ({one['share']:g}x)",
            *(f"{one[name]:,.{digits}f} ({one['expected'][name]:,.{digits}f})" for name, digits in FACTS),
            ", ".join(f"{count:,} x {status}" for status, count in sorted(one["statuses"].items())),
        )
        for one in document["as_they_come"]
    ]
    return table(("requests/s", "answered/s", "p50 ms", "p99 ms", "statuses"), rows)


def servers() -> str:
    """Ours beside other servers."""
    document = result("servers")
    rows = []
    for name, middle, ratios in _beside(document["runs"], OUR_SERVER):
        rates = (f"{middle['per_second']:.2f}", f"{middle['p50_ms'] / 1000:.1f}", f"{middle['p99_ms'] / 1000:.1f}")
        rows.append((name, *rates, "" if name == OUR_SERVER else f"{statistics.median(ratios):.1f}"))
    settings = document["settings"]
    rounds = len({run["round"] for run in document["runs"]})
    told = (
        f"The published shape, {settings['requests']} requests over {settings['connections']} connections, "
        f"{'one round' if rounds == 1 else f'{rounds} interleaved rounds'}; {_hardware(document)}."
    )
    return table(("server", "questions/s", "p50 s", "p99 s", "ours beside it"), rows) + "\n\n" + told


def _beside(runs: list[dict[str, Any]], our_name: str) -> Iterator[tuple[str, dict[str, Any], list[float]]]:
    """Of every server: its name, its round in the middle, and how many times as fast ours was, round by round."""
    ours = _by_round(runs, our_name)
    for name in dict.fromkeys(run["name"] for run in runs):
        theirs = _by_round(runs, name)
        ratios = [ours[number]["per_second"] / theirs[number]["per_second"] for number in ours]
        yield name, median_round(list(theirs.values())), ratios


def median_round(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: float(run["per_second"]))[len(runs) // 2]


def _by_round(runs: list[dict[str, Any]], name: str) -> dict[int, dict[str, Any]]:
    return {run["round"]: run for run in runs if run["name"] == name}


def extras() -> str:
    """What each extra brings, alone in an environment, by Python."""
    document = json.loads(EXTRAS.read_text(encoding="utf-8"))
    pythons = sorted({python for ours in document.values() for python in ours})
    rows = [
        (
            f"`{name.partition(',')[0]}`" if not name.startswith("nothing") else "none",
            name.rpartition(" ")[2],
            *(_installation(ours.get(python)) for python in pythons),
        )
        for name, ours in document.items()
    ]
    return table(("extra", "from", *(f"Python {python}" for python in pythons)), rows)


def _installation(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not tried"
    return "not to be had" if "failed" in found else f"{found['packages']} packages, {found['mb']:,.0f} MB"


BLOCKS: dict[str, Callable[[], str]] = {
    "claim": claim,
    "measured": measured,
    "scores": scores,
    "recorded": recorded,
    "default packing": lambda: latency("bench_default"),
    "movement packing": lambda: latency("bench_movement"),
    "against": against,
    "peers": peers,
    "peers avx2": lambda: peers("peers_avx2"),
    "peers amx": lambda: peers("peers_amx"),
    "packing": lambda: latency("bench_packing"),
    "packing amx": lambda: latency("bench_packing_amx"),
    "packing avx2": lambda: latency("bench_packing_avx2"),
    "backends": lambda: latency("bench_backends"),
    "backends avx2": lambda: latency("bench_backends_avx2"),
    "precisions": lambda: latency("bench_precisions"),
    "squad": lambda: squad("bench_squad"),
    "movement squad": lambda: squad("bench_squad_movement"),
    "eval profile": lambda: eval_profile("eval_profile"),
    "eval profile amx": lambda: eval_profile("eval_profile_amx"),
    "eval profile avx2": lambda: eval_profile("eval_profile_avx2"),
    "kernels": lambda: kernels("kernel_profile"),
    "kernels amx": lambda: kernels("kernel_profile_amx"),
    "kernels avx2": lambda: kernels("kernel_profile_avx2"),
    "growth": growth,
    "tried": tried,
    "faults": faults,
    "loads": loads,
    "loads amx": lambda: loads(AMX_LOADS),
    "as they come": as_they_come,
    "as they come amx": lambda: as_they_come(AMX_LOADS[0]),
    "servers": servers,
    "extras": extras,
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


def _hardware(document: dict[str, Any]) -> str:
    hardware = document["hardware"]
    return f"{hardware['cores']} cores of {hardware['processor']}"


def _origin(document: dict[str, Any]) -> str:
    """Where a benchmark ran, how often, and with what command."""
    versions = document["versions"]
    names = [f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "torch") if versions.get(name)]
    rounds = document["settings"]["rounds"]
    return (
        f"{_hardware(document)}, {', '.join(names)}; medians of {rounds} interleaved rounds; `{document['command']}`."
    )


def _profiled(document: dict[str, Any], script: str) -> str:
    """Where a profile ran and how often, and the table that its script makes of it."""
    settings = document["settings"]
    told = f"{settings['threads']} threads, {_hardware(document)}; medians of {settings['rounds']} rounds."
    return f"{told}\n\n{_script(script).table(document)}".rstrip("\n")


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
