"""What answers: a bundle that was opened, behind a batcher, and what clients may know of it.

model = Model.open(Path("bundle"), ServerOptions(), metrics)
model.warm()
model.batcher.ask(…)
model.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from densepack_runtime.backends import Choice, cache_of, choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.versions import package_versions
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.grid import Grid, warm
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.sessions.host_record import HostRecord


@dataclass(frozen=True, slots=True)
class Model:
    """`facts` are told at /v1/model; a batch of each of `shapes` (rows, tokens) is run before it answers."""

    answerer: QuestionAnswerer
    batcher: Batcher
    name: str
    facts: dict[str, Any]
    shapes: Sequence[tuple[int, int]] = ()

    @classmethod
    def open(cls, folder: Path, options: ServerOptions, metrics: Metrics) -> Self:
        """Open a bundle as the options say; `close` it. Raises as QuestionAnswerer.open does."""
        bundle, choice = chosen(folder, options)
        grid = Grid.of(choice.batching, bundle.manifest.max_length)
        facts = facts_of(bundle, choice, options.session.cache)
        answerer = QuestionAnswerer.of(bundle, choice, options.session)
        batcher = Batcher(answerer, grid, most_tokens=options.most_tokens, ran=metrics.batch, waits=metrics.waits)
        shapes = grid.shapes() if choice.batching.few_shapes else [(1, grid.longest)]
        return cls(answerer, batcher, facts["name"], facts, shapes)

    def warm(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Run a batch of each shape, as long as that is wanted."""
        warm(self.answerer.session, takewhile(lambda _: wanted(), self.shapes))

    def close(self) -> None:
        """Free it; what is not answered then gets an UnavailableError."""
        self.batcher.close()
        self.answerer.close()


def chosen(folder: Path, options: ServerOptions) -> tuple[Bundle, Choice]:
    """The bundle in a folder, and what would run it. Raises BundleError, BackendError."""
    bundle = Bundle.open(folder, strict=options.strict)
    return bundle, choose_backend(bundle, options.backend, options.precision, cache=options.session.cache)


def facts_of(bundle: Bundle, choice: Choice, cache: Path | None) -> dict[str, Any]:
    """What a client may know: the model, what runs it, and what was proven of it when it was built and on this host."""
    manifest = bundle.manifest
    record = HostRecord.load(cache or cache_of(bundle), bundle.sha256, Host.here())
    proofs = record.proofs if record else ()
    proof = next((one for one in proofs if (one.backend, one.precision) == (choice.backend, choice.precision)), None)
    return {
        "name": manifest.model.name,
        "sha256": bundle.sha256,
        **manifest.model.derived,
        "max_length": manifest.max_length,
        "doc_stride": manifest.doc_stride,
        "parity": data_from_record(manifest.parity),
        "backend": choice.backend,
        "precision": choice.precision,
        "proof": None if proof is None else data_from_record(proof),
        "densepack": package_versions()["densepack"],
        # Which heads and units are left of the model are some 100 KB, and nothing that a client decides by.
        "manifest": {name: told for name, told in data_from_record(manifest).items() if name != "model"},
    }
