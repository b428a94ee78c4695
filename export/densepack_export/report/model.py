"""What a bundle is: its figures, its layers, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densepack_export.report.facts import BundleFacts
from densepack_export.report.tables import Row, Table, mebibytes
from densepack_runtime.structure import MATRICES
from densepack_runtime.tensorrt_plans.record import PlanEntry

_LENGTHS = (128, 384)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that matters, what it counts, and what to compare it with."""

    value: str
    name: str
    note: str


def figures(facts: BundleFacts) -> list[Figure]:
    """The handful of numbers at the top."""
    structure, dense = facts.structure, facts.structure.dense()
    found = [
        Figure(_millions(structure.parameters), "parameters", f"{_millions(dense.parameters)} dense"),
        Figure(f"{100 * structure.linear_density:.1f} %", "linear weights left", f"{structure.linear_weights:,}"),
        Figure(f"{structure.heads_left}", "heads left", f"of {structure.heads_total}"),
        Figure(f"{structure.units_left:,}", "FFN units left", f"of {dense.units_left:,}"),
    ]
    short, long = (f"{dense.cost.flops(length) / structure.cost.flops(length):.2f}x" for length in _LENGTHS)
    found.append(Figure(long, f"fewer FLOPs at {_LENGTHS[1]} tokens", f"{short} at {_LENGTHS[0]}"))
    rung = facts.packed_rung
    if rung is not None:
        found.append(Figure(f"{rung.f1:.2f}", "F1", f"EM {rung.exact_match:.2f}, {rung.questions:,} questions"))
    return found


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def sizes(facts: BundleFacts) -> Table:
    """Dense, as stored, packed."""
    structure, model, files = facts.structure, facts.manifest.model, facts.manifest.files
    dense = structure.dense()
    rows: list[Row] = [
        ("parameters", f"{dense.parameters:,}", f"{model.parameters_stored:,}", f"{structure.parameters:,}"),
        ("linear weights", f"{dense.linear_weights:,}", "", f"{structure.linear_weights:,}"),
        ("heads", f"{structure.heads_total:,}", "", f"{structure.heads_left:,}"),
        ("FFN units", f"{dense.units_left:,}", "", f"{structure.units_left:,}"),
    ]
    for length in _LENGTHS:
        before, after = (f"{one.cost.flops(length) / 1e9:.2f}" for one in (dense, structure))
        rows.append((f"GFLOPs for {length} tokens", before, "", after))
    graphs = [(name, entry) for name, entry in files.items() if name.endswith(".onnx")]
    rows += [(name, "", "", mebibytes(entry.bytes)) for name, entry in sorted(graphs)]
    return Table.of("Before and after", ("", "dense", "as stored", "packed"), rows)


def layers(facts: BundleFacts) -> Table:
    """A row a layer: heads by id, units, and the density of every matrix in percent."""
    by_layer: dict[int, list[str]] = {}
    for matrix in facts.matrices:
        by_layer.setdefault(matrix.layer, []).append(f"{100 * matrix.density:.1f}")
    rows: list[Row] = [
        (
            str(index),
            " ".join(map(str, layer.heads)) or "none",
            f"{len(layer.ffn_units):,}",
            *by_layer[index],
        )
        for index, layer in enumerate(facts.structure.layers)
    ]
    columns = ("layer", "heads left", "FFN units", *(f"{name}, %" for name in MATRICES))
    return Table.of("What is left of every layer", columns, rows, words=(1,))


def origin(facts: BundleFacts) -> Table:
    """Checkpoint, windows and gates, a row each."""
    manifest, parity = facts.manifest, facts.parity
    rows: list[Row] = [
        ("checkpoint", manifest.model.name),
        ("its sha256", manifest.model.sha256),
        ("windows", f"{manifest.max_length} tokens at most, neighbours share {manifest.doc_stride}"),
    ]
    if ranges := manifest.fp16_range:
        text = f"largest magnitude {ranges.worst_magnitude:.4g} of {ranges.limit:,.0f}, in {ranges.worst_name}"
        rows.append(("FP16 range gate", f"{text}, over {ranges.windows:,} windows"))
    if parity is not None:
        rows.append(("parity on", f"{parity.squad_name}, sha256 {parity.squad_sha256}"))
    rows.append(("built with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())))
    return Table.of("Checkpoint and build", ("", ""), rows, words=(1,))


def engines(facts: BundleFacts) -> Table | None:
    """A row for every TensorRT plan; None without one."""
    if not facts.manifest.engines:
        return None
    columns = ("plan", "TensorRT", "runs on", "profiles, batch x tokens", "products in FP16", "attention", "verdict")
    rows = [_engine_row(entry) for entry in facts.manifest.engines]
    return Table.of("TensorRT plans", columns, rows, words=range(1, len(columns)))


def _engine_row(entry: PlanEntry) -> Row:
    target = entry.gpu or ", ".join(f"SM {capability}" for capability in entry.compute_capabilities)
    return (
        Path(entry.plan).name,
        f"{entry.flavour} {entry.tensorrt_version}",
        target,
        "; ".join(map(str, entry.profiles)),
        f"{entry.proof.half_products} of {entry.proof.products}",
        entry.proof.attention,
        entry.verdict,
    )


def files(facts: BundleFacts) -> Table:
    """Every file of the bundle with its hash."""
    rows: list[Row] = [
        (name, mebibytes(entry.bytes), entry.sha256) for name, entry in sorted(facts.manifest.files.items())
    ]
    return Table.of("Files", ("file", "size", "sha256"), rows, words=(2,))


def commands(facts: BundleFacts) -> str:
    """How a reader repeats what the page says."""
    squad = f" --squad {facts.parity.squad_name}" if facts.parity and facts.parity.squad_name != "sample" else ""
    return (
        f"densepack build {facts.manifest.model.name} {facts.name}{squad}\n"
        f"densepack parity {facts.name} --checkpoint {facts.manifest.model.name}{squad}"
    )
