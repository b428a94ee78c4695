"""Benchmark documents as tables and pictures. A section that a document does not have is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from densepack_export.plots.speed import Growth, Timing, growth_plot, latency_plot
from densepack_export.report.facts import Benchmark
from densepack_export.report.tables import Row, Table
from densepack_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG and what it shows for those who do not see it."""

    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class Speed:
    """One benchmark document: where and how it was measured, pictures, tables."""

    name: str
    where: str
    command: str
    pictures: list[Picture]
    tables: list[Table]


def speed(benchmark: Benchmark) -> Speed:
    """Raises InputError that names the file and the field when a section is not as `densepack bench` writes it."""
    try:
        return Speed(
            name=benchmark.name,
            where=_where(benchmark),
            command=str(benchmark.document.get("command") or ""),
            pictures=[*_latency_picture(benchmark), *growth_picture(benchmark)],
            tables=[*_ratios(benchmark), *_squad(benchmark), *_latency(benchmark)],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{benchmark.name} cannot be read: {error!r}; was it written by densepack bench?") from error


def _where(benchmark: Benchmark) -> str:
    hardware, versions = benchmark.document["hardware"], benchmark.document["versions"]
    packages = [f"{name} {version}" for name, version in versions.items()]
    memory = f", {hardware['memory_gib']:g} GiB" if hardware.get("memory_gib") else ""
    peak = f", matrix products at {hardware['peak_gflops']:.0f} GFLOP/s" if hardware.get("peak_gflops") else ""
    rounds = benchmark.document.get("settings", {}).get("rounds")
    how = f"; medians of {rounds} interleaved rounds" if rounds else ""
    return f"{hardware['cores']} cores of {hardware['processor']}{memory}{peak}{how}; {', '.join(packages)}"


def _latency_picture(benchmark: Benchmark) -> list[Picture]:
    names = ("side", "batch", "length", "median_ms", "min_ms", "max_ms")
    timings = [Timing(**{name: row[name] for name in names}) for row in benchmark.rows("latency")]
    return [Picture(latency_plot(timings), "milliseconds by window length for each batch size")] if timings else []


def growth_picture(benchmark: Benchmark) -> list[Picture]:
    """The curves of a document that has some, else nothing."""
    points = [
        Growth(row["side"], row["axis"].replace("_", " "), row["value"], row["seconds"], row.get("peak_rss_mib"))
        for row in benchmark.rows("growth")
    ]
    text = "seconds and peak memory by questions, words of a context, and threads"
    return [Picture(growth_plot(points), text)] if points else []


def _ratios(benchmark: Benchmark) -> list[Table]:
    rows = benchmark.rows("ratios")
    if not rows:
        return []
    return [
        Table.of(
            f"Compared with {rows[0]['base']}, on equal batches",
            ("side", "batch x tokens", "times as fast", "from", "to", "FLOP limit", "of limit"),
            [(row["side"], _cell(row), *_ratio_texts(row)) for row in rows],
        )
    ]


def _ratio_texts(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['median']:.2f}",
        f"{row['min']:.2f}",
        f"{row['max']:.2f}",
        f"{row['flop_limit']:.2f}",
        f"{100 * row['share_of_flop_limit']:.0f} %",
    )


def _latency(benchmark: Benchmark) -> list[Table]:
    rows = benchmark.rows("latency")
    optional: list[tuple[str, str, Callable[[Any], str]]] = [
        ("p90 ms", "p90_ms", "{:.2f}".format),
        ("p99 ms", "p99_ms", "{:.2f}".format),
        ("GFLOP/s", "gflops", "{:.1f}".format),
        ("of peak", "share_of_peak", _percent),
    ]
    shown = [column for column in optional if any(row.get(column[1]) is not None for row in rows)]
    columns = (
        "side",
        "batch x tokens",
        "median ms",
        "spread",
        "windows/s",
        "tokens/s",
        *(name for name, _, _ in shown),
    )
    made: list[Row] = [
        (
            row["side"],
            _cell(row),
            f"{row['median_ms']:.2f}",
            f"{100 * row['spread']:.1f} %",
            f"{row['windows_per_s']:.1f}",
            f"{row['tokens_per_s']:,.0f}",
            *("" if row.get(field) is None else text(row[field]) for _, field, text in shown),
        )
        for row in rows
    ]
    return [Table.of("Latency and throughput", columns, made)] if made else []


def _squad(benchmark: Benchmark) -> list[Table]:
    section = benchmark.document.get("squad")
    if not section:
        return []
    faster = {row["side"]: f"{row['median']:.2f}" for row in section.get("ratios", ())}
    base = next((row["base"] for row in section.get("ratios", ())), "")
    columns = ["side", "questions/s", "seconds", "spread", "outside the model", "EM", "F1"]
    rows = [
        (
            row["side"],
            f"{row['questions_per_s']:.1f}",
            f"{row['median_s']:.1f}",
            f"{100 * row['spread']:.1f} %",
            _percent(row["outside_share"]),
            f"{row['exact_match']:.2f}",
            f"{row['f1']:.2f}",
            *([faster.get(row["side"], "1")] if faster else []),
        )
        for row in section["sides"]
    ]
    if faster:
        columns.append(f"times as fast as {base}")
    return [Table.of(f"{section['questions']:,} questions of {section['file']}, file to EM and F1", columns, rows)]


def _cell(row: dict[str, Any]) -> str:
    return f"{row['batch']}x{row['length']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
