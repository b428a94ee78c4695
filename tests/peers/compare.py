"""Run the contestants side by side, round by round, and write one document and one table.

    python compare.py FOLDER dev-v1.1.json --peers PYTHON --questions 1000 --rounds 3

FOLDER holds what `speed_inputs.py` wrote, and takes the document: one for each data set and choice of settings, so that
an interrupted comparison goes on and none goes on in another's; --out names another. In every round each contestant
runs once, in a process of its own and in an order that changes; ratios are taken within a round. Everything runs under
the default allocator and, where it is installed, under tcmalloc.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from provenance import provenance

from densepack_runtime.sessions.openvino_session import openvino_precisions

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
KIND = "densepack peers"
OURS = "densepack, FP32"
# Before each run, for what the one before has left spinning or to be written.
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A name in the table, the script that runs it and its options; `peer` takes the peers' environment."""

    name: str
    script: str
    model: str
    options: tuple[str, ...] = ()
    peer: bool = True

    @property
    def precision(self) -> str:
        """What it multiplies in, which not every processor does."""
        return self.options[-1] if "--precision" in self.options else "fp32"


PACKED = "packed.bundle"
CONTESTANTS = (
    Contestant("transformers 4.57 pipeline, dense", "speed_pipeline.py", "dense"),
    Contestant("transformers 4.57 pipeline, pruned as stored", "speed_pipeline.py", "stored"),
    Contestant("the same, packed by nn_pruning", "speed_pipeline.py", "stored", ("--nn-pruning",)),
    Contestant("optimum-onnx pipeline, dense", "speed_optimum.py", "dense"),
    Contestant("PyTorch, pruned as stored", "speed_torch.py", "stored"),
    Contestant("PyTorch compiled, pruned as stored", "speed_torch.py", "stored", ("--compile",)),
    Contestant("densepack, dense, FP32", "speed_densepack.py", "dense.bundle", peer=False),
    Contestant("densepack, ONNX Runtime, FP32", "speed_densepack.py", PACKED, ("--backend", "onnxruntime"), peer=False),
    Contestant(OURS, "speed_densepack.py", PACKED, peer=False),
    Contestant("densepack, BF16", "speed_densepack.py", PACKED, ("--precision", "bf16"), peer=False),
    Contestant("densepack, INT8", "speed_densepack.py", PACKED, ("--precision", "int8"), peer=False),
)


# One of every script: who runs at all.
QUICK = tuple({contestant.script: contestant for contestant in reversed(CONTESTANTS)}.values())


def main() -> None:
    options = _options()
    document = _document(options)
    wanted = [contestant for contestant in CONTESTANTS if not options.only or contestant.name in options.only]
    able = [contestant for contestant in wanted if contestant.precision in ("fp32", *openvino_precisions())]
    for left_out in set(wanted) - set(able):
        sys.stderr.write(f"this processor does not multiply in {left_out.precision}: {left_out.name} is left out\n")
    for allocator in ("default",) if options.quick else options.allocators.split(","):
        library = None if allocator == "default" else ctypes.util.find_library(f"{allocator}_minimal")
        if allocator != "default" and library is None:
            sys.stderr.write(f"{allocator} is not installed: left out\n")
            continue
        for round_number, contestant in _turns(options.rounds, QUICK if options.quick else able):
            if any(_key(done) == (allocator, round_number, contestant.name) for done in document["runs"]):
                continue
            sys.stderr.write(f"{allocator}, round {round_number + 1}: {contestant.name} …\n")
            result = _run(contestant, library, options)
            place = {"allocator": allocator, "round": round_number, "name": contestant.name}
            document["runs"].append(place | result)
            _write(options.out, json.dumps(document, indent=1) + "\n")
            sys.stderr.write(f"    {result['questions'] / result['seconds']:.2f} questions/s\n")
    _write(options.out.with_suffix(".md"), table(document))
    sys.stderr.write(f"wrote {options.out} and {options.out.with_suffix('.md').name}\n")


def table(document: dict[str, Any]) -> str:
    """Markdown, a table an allocator: questions a second, memory, and how many times as fast each of ours is."""
    parts = []
    for allocator in dict.fromkeys(run["allocator"] for run in document["runs"]):
        runs = [run for run in document["runs"] if run["allocator"] == allocator]
        names = list(dict.fromkeys(run["name"] for run in runs if run["round"] == 0))
        names = [contestant.name for contestant in CONTESTANTS if contestant.name in names]
        ours = [name for name in (OURS, "densepack, BF16", "densepack, INT8") if name in names]
        columns = (f"{allocator} allocator", "questions/s", "MiB", *(f"{name[11:]} against it" for name in ours))
        rows = [columns, ("---",) * len(columns)]
        for name in names:
            own = [run for run in runs if run["name"] == name]
            speed = median(run["questions"] / run["seconds"] for run in own)
            memory = max(run["peak_mib"] for run in own)
            rows.append((name, f"{speed:.1f}", f"{memory:,.0f}", *(_told(ratios(runs, name, our)) for our in ours)))
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts) + "\n"


def ratios(runs: list[dict[str, Any]], base: str, name: str) -> list[float]:
    """How many times as fast `name` is as `base`, round by round."""
    seconds = {(run["name"], run["round"]): run["seconds"] / run["questions"] for run in runs}
    rounds = sorted({run["round"] for run in runs})
    return [
        seconds[base, number] / seconds[name, number]
        for number in rounds
        if (base, number) in seconds and (name, number) in seconds
    ]


def _told(found: list[float]) -> str:
    if len(found) < 2:
        return "".join(f"{ratio:.2f}" for ratio in found)
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _turns(rounds: int, contestants: Sequence[Contestant] = CONTESTANTS) -> Iterator[tuple[int, Contestant]]:
    """Every contestant once a round; the one that begins changes."""
    for number in range(rounds):
        turn = number * 3 % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            yield number, contestant


def _run(contestant: Contestant, preload: str | None, options: argparse.Namespace) -> dict[str, Any]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("runtime", "tests/peers")),
        "OMP_NUM_THREADS": str(options.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    if preload:
        environment["LD_PRELOAD"] = preload
        environment["TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD"] = str(2**40)
    command = [
        options.peers if contestant.peer else sys.executable,
        str(HERE / contestant.script),
        str(options.folder / contestant.model),
        str(options.squad),
        *("--questions", str(options.questions), "--threads", str(options.threads)),
        *contestant.options,
    ]
    time.sleep(SETTLE_SECONDS)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {contestant.name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _document(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"questions": options.questions, "rounds": options.rounds, "threads": options.threads}
    if options.out.is_file():
        document: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8"))
        begun, asked = (document["squad"], document["settings"]), (options.squad.name, settings)
        if begun != asked:
            sys.exit(f"error: {options.out} was begun with {begun}, not with {asked}: name another --out, or remove it")
        sys.stderr.write(f"going on with {options.out}: {len(document['runs'])} runs are in it\n")
        return document
    command = f"make peers QUESTIONS={options.questions} ROUNDS={options.rounds} THREADS={options.threads}"
    if options.only:
        command += f""" ONLY='{" ".join(f'--only "{name}"' for name in options.only)}'"""
    head = {"kind": KIND, "command": command, "squad": options.squad.name, "settings": settings}
    return head | {"hardware": provenance()["hardware"], "runs": []}


def _key(run: dict[str, Any]) -> tuple[str, int, str]:
    return run["allocator"], run["round"], run["name"]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("squad", type=Path)
    parser.add_argument("--peers", required=True, help="the Python of the peers' environment")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocators", default="default,tcmalloc")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="a contestant; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one contestant of every script, the default allocator")
    parser.add_argument("--out", type=Path, help="by default in FOLDER, named by data and settings")
    options = parser.parse_args()
    name = f"{options.squad.stem}-{options.questions}-questions-{options.rounds}-rounds-{options.threads}-threads.json"
    options.out = options.out or options.folder / name
    if not options.squad.is_file():
        parser.error(f"{options.squad} is not there: name SQuAD's dev-v1.1.json")
    return options


if __name__ == "__main__":
    main()
