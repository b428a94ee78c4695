"""`densepack serve` beside other servers, the same requests over as many connections, round by round.

    python compare_servers.py FOLDER --peers PYTHON --requests 300 --rounds 3 [--out results/servers.json]

FOLDER holds what `speed_inputs.py` wrote. Every server runs alone, in a process of its own, and is warm: it has
answered a few of the requests before. The peers' answers are not judged, ours have to be the library's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from compare import PACKED, REPOSITORY, SETTLE_SECONDS, Contestant
from provenance import provenance
from tests.runtime.serving.load import CONNECTIONS, Outcome, Sent, load, mixed, served
from tests.runtime.serving.loads import fact

from densepack_runtime.question_answering.question_answerer import QuestionAnswerer

KIND = "densepack servers"
HERE = Path(__file__).resolve().parent
OURS = "`densepack serve`"
WARM_UP = 16
START_S, ASK_AGAIN_S = 120.0, 0.5


PEERS = (
    Contestant("FastAPI, transformers 4.57 pipeline", "serve_pipeline.py", "stored"),
    Contestant("the same, packed by nn_pruning", "serve_pipeline.py", "stored", ("--nn-pruning",)),
    Contestant("LitServe, our session, batches of up to 16", "serve_litserve.py", PACKED),
)


@contextmanager
def started(command: Sequence[str], environment: dict[str, str]) -> Iterator[int]:
    """A server on a free port, from its first answer until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    filled = [word.format(port=port) for word in command]
    with subprocess.Popen(filled, env=environment, start_new_session=True, stderr=subprocess.PIPE) as process:
        try:
            _wait_for_answer(port, process)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # LitServe's workers, too
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    asked = Sent(json.dumps({"id": 0, "question": "Who?", "context": "Anna Berg built it."}).encode(), 200)
    end = time.monotonic() + START_S
    while not asyncio.run(load(port, [asked], 1)).answered:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            told = process.stderr.read().decode()[-2000:] if process.stderr else ""
            sys.exit(f"error: {process.args!r} did not answer:\n{told}")
        time.sleep(ASK_AGAIN_S)


@contextmanager
def running(peer: Contestant | None, options: argparse.Namespace) -> Iterator[int]:
    """The port of a peer, or of `densepack serve`."""
    threads = ("--threads", str(options.threads))
    if peer is None:
        with served(options.folder / PACKED, *threads, "--precision", "fp32", "--timeout-s", "600") as ours:
            yield ours.port
        return
    command = [options.peers, str(HERE / peer.script), str(options.folder / peer.model), "{port}"]
    path = os.pathsep.join(str(REPOSITORY / part) for part in ("runtime", "tests/peers"))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    with started([*command, *threads, *peer.options], environment) as port:
        yield port


def measured(peer: Contestant | None, requests: Sequence[Sent], options: argparse.Namespace) -> Outcome:
    time.sleep(SETTLE_SECONDS)
    with running(peer, options) as port:
        asyncio.run(load(port, requests[:WARM_UP]))
        return asyncio.run(load(port, requests))


def main() -> int:
    options = _options()
    with QuestionAnswerer.open(options.folder / PACKED, precision="fp32", threads=options.threads) as answerer:
        requests = mixed(answerer, options.requests, bad=0.0)
    unjudged = [replace(sent, answer=None) for sent in requests]
    runs: list[dict[str, Any]] = []
    failed = False
    for number in range(options.rounds):
        for peer in (*PEERS, None):
            outcome = measured(peer, unjudged if peer else requests, options)
            run = {"round": number, **fact(peer.name if peer else OURS, outcome)}
            sys.stderr.write(f"{run}\n")
            runs.append(run)
            failed |= bool(outcome.wrong or outcome.lost or outcome.refused)
    packages = ("densepack", "openvino")
    settings = {"requests": options.requests, "connections": CONNECTIONS, "threads": options.threads}
    document = {"kind": KIND, "settings": settings, **provenance(*packages), "runs": runs}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name in dict.fromkeys(run["name"] for run in runs):
        print(f"{name}: {median(run['per_second'] for run in runs if run['name'] == name):.2f} questions/s")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", required=True, help="the Python of the peers' environment")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "servers.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
