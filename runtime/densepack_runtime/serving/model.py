"""What answers: a bundle that was opened, behind a batcher, and what clients may know of it.

model = Model.open(Path("bundle"), ServerOptions(), metrics)
model.warm()
model.batcher.ask(…)
model.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from densepack_runtime.backends import Choice, cache_of, choose_backend, open_choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BundleError
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.host.versions import package_versions
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.batcher import Batcher
from densepack_runtime.serving.grid import Grid, seconds_of, warm
from densepack_runtime.serving.metrics import Metrics
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reopening import ReopenedSession
from densepack_runtime.sessions.host_record import HostRecord
from densepack_runtime.sessions.session import Session


@dataclass(frozen=True, slots=True)
class Model:
    """`facts` are told at /v1/model; `session` runs a batch of each of `shapes` (rows, tokens) before it answers."""

    answerer: QuestionAnswerer
    batcher: Batcher
    name: str
    facts: dict[str, Any]
    session: Session
    shapes: Sequence[tuple[int, int]] = ()

    @classmethod
    def open(
        cls, name: str | Path, options: ServerOptions, metrics: Metrics, gave_up: Callable[[Exception], None]
    ) -> Self:
        """Open a bundle as the options say; `close` it. Raises as QuestionAnswerer.open does.

        A session that breaks while it answers is opened again; `gave_up` hears why that was not enough.
        """
        bundle, choice = chosen(name, options)
        lanes = options.lanes or choice.batching.lanes_of(options.session.cpu_threads)
        options = replace(options, session=replace(options.session, lanes=lanes))
        grid = Grid.of(choice.batching, bundle.manifest.max_length)
        facts = facts_of(bundle, choice, options.session.cache)
        answerer = QuestionAnswerer.of(bundle, choice, options.session)
        session = answerer.session
        answerer.session = ReopenedSession(session, partial(_open_again, bundle, choice, options), gave_up)
        batcher = Batcher(
            answerer, grid, lanes=lanes, most_tokens=options.most_tokens, ran=metrics.batch, waits=metrics.waits
        )
        shapes = grid.shapes() if choice.batching.few_shapes else [(1, grid.longest)]
        return cls(answerer, batcher, facts["name"], facts, session, shapes)

    def warm(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Run a batch of each shape, and measure what a batch costs, as long as that is wanted."""
        warm(self.session, takewhile(lambda _: wanted(), self.shapes))
        if wanted():
            self.batcher.regrid(lambda grid: grid.measured(partial(seconds_of, self.session)))

    def close(self) -> None:
        """Free it; what is not answered then gets an UnavailableError."""
        self.batcher.close()
        self.answerer.close()


def chosen(name: str | Path, options: ServerOptions) -> tuple[Bundle, Choice]:
    """A bundle, and what would run it. Raises BundleError, BackendError."""
    bundle = Bundle.open(name, strict=options.strict)
    return bundle, choose_backend(bundle, options.backend, options.precision, cache=options.session.cache)


def _open_again(bundle: Bundle, choice: Choice, options: ServerOptions) -> Session:
    again = Bundle.open(bundle.folder)
    if again.sha256 != bundle.sha256:  # its tokenizer and what clients were told would not fit
        raise BundleError(f"{bundle.folder} has another bundle by now than the one that is served")
    return open_choice(again, choice, options.session)


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
