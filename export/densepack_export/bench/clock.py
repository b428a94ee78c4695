"""How long a model of any structure takes in one session: for cuts that shall have a speed.

    clock = SessionClock(kind_of("openvino", None), Cell(8, 384), options, folder, tell)
    clock.prices(structure).heads[3]                 # nanoseconds of attention with three heads
    clock.timing(structure).speedup

What is measured is kept in a folder, by host, versions and session. Times do not depend on weights, which are random,
nor on the vocabulary, of which there is little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from densepack_export.bench.modules import exported
from densepack_export.bench.names import Kind, kinds
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.pruning.second_order.budgets import NANOSECONDS, Prices, Timing
from densepack_runtime.benchmark.latency import measure_latency
from densepack_runtime.benchmark.sides import Cell, Settings, Side
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.files import write_text_atomic
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import Document, data_from_record
from densepack_runtime.sessions.compile_cache import digest
from densepack_runtime.sessions.host_record import host_facts
from densepack_runtime.sessions.options import SessionOptions
from densepack_runtime.structure import LayerStructure, Structure

TIMES = Document("the table of times", BackendError, "remove it, and it is measured again")
# Widths of a block that are timed; what is between them is interpolated, which a nearly straight line allows.
_POINTS = 8
# Layers of the model that a block is timed in: enough to tell one from the rest of the model.
_LAYERS = 4
_VOCABULARY = 1024
_NOTHING = LayerStructure(heads=(), ffn_units=(), ffn_width=0)


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Milliseconds of the attention of a layer by heads left and of its FFN by units left, and of the rest of a
    model.
    """

    heads: tuple[tuple[int, float], ...]
    units: tuple[tuple[int, float], ...]
    rest: float


@dataclass(frozen=True, slots=True)
class KeptTimes:
    """A file of times: what they depend on, those of layers, and those of whole models by their structure."""

    decides: dict[str, str]
    layers: LayerTimes | None = None
    models: dict[str, Timing] = field(default_factory=dict)


def kind_of(backend: str, precision: str | None) -> Kind:
    """What runs the models. Raises InputError for what is unknown, BackendError for a GPU that is not here."""
    name = backend if precision is None else f"{backend}-{precision}"
    known = {name: kind for name, kind in kinds().items() if name.startswith(kind.backend) and not kind.is_torch}
    if name not in known:
        raise InputError(f"unknown backend and precision {name!r}; known: {', '.join(known)}")
    if known[name].gpu and Host.here().gpu is None:
        raise BackendError(f"{name} needs an NVIDIA GPU, and there is none here")
    return known[name]


@dataclass(frozen=True)
class SessionClock:
    """A `Clock` (see densepack_models.pruning.second_order.budgets) of one kind of session and one shape."""

    kind: Kind
    cell: Cell
    options: SessionOptions
    folder: Path
    tell: Callable[[str], None] = lambda _: None
    settings: Settings = field(default_factory=Settings)

    def as_dict(self) -> Mapping[str, Any]:
        return {
            "backend": self.kind.backend,
            "precision": self.kind.precision,
            **asdict(self.cell),
            "threads": self.options.cpu_threads,
        }

    def prices(self, structure: Structure) -> Prices:
        """Nanoseconds by what is left of a layer. Raises BackendError where the session fails."""
        if self.cell.length > structure.longest_input:
            raise InputError(
                f"windows of {self.cell.length} tokens are longer than the model can read: lower --length to "
                f"{structure.longest_input}"
            )
        times = self._kept(structure).layers or self._measured_layers(structure)
        return Prices(
            heads=_table(times.heads, structure.num_attention_heads),
            units=_table(times.units, structure.intermediate_size),
            fixed=round(times.rest * NANOSECONDS),
        )

    def timing(self, structure: Structure) -> Timing:
        """The whole model beside the dense one, in interleaved rounds."""
        kept, name = self._kept(structure), digest(data_from_record(_probe(structure)))
        if name not in kept.models:
            self.tell(f"timing a model of {structure.heads_left} heads beside the dense one")
            document = self._times([structure.dense(), structure])
            dense, ours = (row["median_ms"] for row in document["latency"])
            timing = Timing(dense, ours, document["ratios"][0]["median"])
            kept = replace(kept, models={**kept.models, name: timing})
            self._keep(structure, kept)
        return kept.models[name]

    def _measured_layers(self, structure: Structure) -> LayerTimes:
        heads, units = _points(structure.num_attention_heads), _points(structure.intermediate_size, 8)
        self.tell(
            f"timing {len(heads)} widths of attention and {len(units)} of the FFN with {self.kind.backend} "
            f"{self.kind.precision}, {self.cell}"
        )
        count = min(_LAYERS, structure.num_layers)
        alike = [
            _NOTHING,
            *(replace(_NOTHING, heads=tuple(range(number))) for number in heads),
            *(replace(_NOTHING, ffn_width=number) for number in units),
        ]
        models = [replace(structure, layers=(layer,) * count) for layer in alike]
        rest = replace(structure, layers=(_NOTHING,) * structure.num_layers)
        least, *blocks, whole = (row["median_ms"] for row in self._times([*models, rest])["latency"])
        each = [(block - least) / count for block in blocks]
        timed = tuple(zip((*heads, *units), each, strict=True))
        times = LayerTimes(timed[: len(heads)], timed[len(heads) :], whole)
        self._keep(structure, replace(self._kept(structure), layers=times))
        return times

    def _times(self, structures: Sequence[Structure]) -> dict[str, Any]:
        """The sections of a benchmark, with the first structure as its base."""
        with ExitStack() as opened, torch.random.fork_rng(devices=[]):
            sides = []
            for number, structure in enumerate(structures):
                folder = Path(opened.enter_context(TemporaryDirectory(prefix="densepack-clock-")))
                module = PackedBertForQuestionAnswering(_probe(structure))
                session = opened.enter_context(exported(module, self.kind, folder)(self.options))
                sides.append(Side(name=str(number), session=session, cost=structure.cost))
            return measure_latency(sides, [self.cell], self.settings, peak=1.0)

    # --- the file -----------------------------------------------------------------------------------------------------

    def _decides(self, structure: Structure) -> dict[str, str]:
        session = {name: str(value) for name, value in self.as_dict().items()}
        return host_facts(Host.here()) | session | {"dense model": digest(data_from_record(_probe(structure.dense())))}

    def _path(self, structure: Structure) -> Path:
        return self.folder / f"times-{digest(self._decides(structure))}.json"

    def _kept(self, structure: Structure) -> KeptTimes:
        path = self._path(structure)
        return TIMES.read(path, KeptTimes) if path.is_file() else KeptTimes(self._decides(structure))

    def _keep(self, structure: Structure, times: KeptTimes) -> None:
        write_text_atomic(self._path(structure), json.dumps(data_from_record(times), indent=1) + "\n")


def _probe(structure: Structure) -> Structure:
    return replace(structure, vocab_size=_VOCABULARY, source_sha256="")


def _points(most: int, multiple: int = 1) -> list[int]:
    """Up to _POINTS numbers from little to all, closer where they are small."""
    whole = max(1, most // multiple)
    return sorted({most, *(multiple * round(number) for number in np.geomspace(1, whole, _POINTS)[:-1])} - {0})


def _table(times: Sequence[tuple[int, float]], most: int) -> tuple[int, ...]:
    """Nanoseconds for nothing, one, two … of a block; more never take less."""
    widths, milliseconds = zip((0, 0.0), *times, strict=True)
    found = np.interp(np.arange(most + 1), widths, milliseconds)
    return tuple(int(time) for time in np.maximum.accumulate(found) * NANOSECONDS)
