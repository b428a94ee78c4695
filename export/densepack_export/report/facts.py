"""What a report is made of: bundles, their parity reports and weights, benchmark documents, gold answers.

facts = gather([Path("bundle/")], benchmarks=[Path("bench.json")])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densepack_export.measurements import read_measurement
from densepack_export.plots.matrices import Matrix, matrices_of_graph
from densepack_runtime.benchmark.document import BENCHMARK_KIND
from densepack_runtime.bundle import PARITY_NAME, Bundle, Manifest
from densepack_runtime.errors import InputError
from densepack_runtime.parity.report import ParityReport, RungReport
from densepack_runtime.question_answering.squad import SquadDataset, read_squad, sample_squad_path
from densepack_runtime.structure import Structure

Gold = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """One bundle. `gold` has the answers of the SQuAD file by question, empty where the file is not at hand."""

    name: str
    manifest: Manifest
    matrices: tuple[Matrix, ...]
    parity: ParityReport | None = None
    gold: Gold = field(default_factory=dict)

    @property
    def structure(self) -> Structure:
        return self.manifest.model.structure

    @property
    def model_name(self) -> str:
        """The last part of where the checkpoint came from."""
        return Path(self.manifest.model.name).name

    @property
    def packed_rung(self) -> RungReport | None:
        """The rung that EM and F1 of this bundle are taken from: the first FP32 one below the reference."""
        rungs = self.parity.rungs if self.parity else ()
        compared = [rung for rung in rungs if rung.status in ("passed", "failed") and rung.precision == "fp32"]
        return next((rung for rung in compared if rung.questions), None)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A document of `densepack bench --out`, and the name of its file."""

    name: str
    document: dict[str, Any]

    def rows(self, section: str) -> list[dict[str, Any]]:
        """The rows of a section of the document; none where it has no such section."""
        return list(self.document.get(section) or ())


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything one page tells."""

    bundles: tuple[BundleFacts, ...]
    benchmarks: tuple[Benchmark, ...] = ()


def gather(names: Sequence[str | Path], *, benchmarks: Sequence[Path] = (), squad: Path | None = None) -> ReportFacts:
    """Open and read everything. Raises the error of the bundle, InputError for another file or an unfitting one."""
    datasets = [read_squad(path) for path in (sample_squad_path(), squad) if path is not None]
    bundles = tuple(bundle_facts(Bundle.open(name), Path(name).resolve().name, datasets) for name in names)
    if squad is not None and not any(_checked_on(bundle, datasets[-1]) for bundle in bundles):
        raise InputError(
            f"{squad} is not the file that parity was checked on: its sha256 is {datasets[-1].sha256[:12]}…"
        )
    return ReportFacts(bundles, tuple(read_benchmark(path) for path in benchmarks))


def bundle_facts(bundle: Bundle, name: str, datasets: Sequence[SquadDataset] = ()) -> BundleFacts:
    """Read one bundle, which need not be finished yet. Raises InputError when its parity report is of another kind."""
    manifest = bundle.manifest
    parity = None
    if PARITY_NAME in manifest.files:
        parity = ParityReport.from_dict(json.loads(bundle.path(PARITY_NAME).read_text(encoding="utf-8")))
    matrices = matrices_of_graph(bundle.graph("fp32"), manifest.model.structure)
    facts = BundleFacts(name, manifest, matrices, parity)
    for dataset in datasets:
        if _checked_on(facts, dataset):
            facts.gold.update({question.id: question.answers for question in dataset.questions})
    return facts


def _checked_on(facts: BundleFacts, dataset: SquadDataset) -> bool:
    return facts.parity is not None and facts.parity.squad_sha256 == dataset.sha256


def read_benchmark(path: Path) -> Benchmark:
    """Raises InputError when the file is not a benchmark document."""
    document = read_measurement(path, ("kind", "hardware", "versions", "sides"))
    if document["kind"] != BENCHMARK_KIND:
        raise InputError(
            f"{path} is a {document['kind']!r}, not a {BENCHMARK_KIND!r}: densepack bench --out writes one"
        )
    return Benchmark(path.name, document)
