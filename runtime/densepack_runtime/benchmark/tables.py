"""A benchmark document as tables: (columns, rows) each, for `console.print_table`."""

from __future__ import annotations

from typing import Any

from densepack_runtime.host.console import print_table

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def latency_table(document: dict[str, Any]) -> Table:
    """The timings, a row for every cell and side."""
    columns = ("side", "cell", "ms", "spread", "p90", "p99", "windows/s", "tokens/s", "GFLOP/s", "of peak")
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            _cell(row),
            f"{row['median_ms']:.2f}",
            _percent(row["spread"], 1),
            f"{row['p90_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['windows_per_s']:.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['gflops']:.1f}",
            _percent(row["share_of_peak"]),
        )
        for row in document["latency"]
    ]
    return columns, rows


def ratio_table(document: dict[str, Any]) -> Table:
    """The ratios to the first side, a row for every cell and other side, those on SQuAD last."""
    columns = ("side", "cell", "times as fast", "lowest", "highest", "spread", "FLOP limit", "of limit")
    found = [(_cell(row), row) for row in document.get("ratios", ())]
    if "squad" in document:
        found += [(document["squad"]["file"], row) for row in document["squad"]["ratios"]]
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            cell,
            *(f"{row[name]:.2f}" for name in ("median", "min", "max")),
            _percent(row["spread"], 1),
            f"{row['flop_limit']:.2f}",
            _percent(row["share_of_flop_limit"]),
        )
        for cell, row in found
    ]
    return columns, rows


def squad_table(document: dict[str, Any]) -> Table:
    """The passes through the SQuAD file, a row for every side."""
    columns = ("side", "s", "spread", "questions/s", "tokens/s", "padding", "GFLOP/s", "of peak", "outside", "EM", "F1")
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            f"{row['median_s']:.2f}",
            _percent(row["spread"], 1),
            f"{row['questions_per_s']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            _percent(1 - row["tokens"] / row["padded_tokens"], 1),
            f"{row['gflops']:.1f}",
            _percent(row["share_of_peak"]),
            _percent(row["outside_share"], 1),
            f"{row['exact_match']:.2f}",
            f"{row['f1']:.2f}",
        )
        for row in document["squad"]["sides"]
    ]
    return columns, rows


def memory_table(document: dict[str, Any]) -> Table:
    """MiB in RAM of a fresh process for every side."""
    columns = ("side", "ready", "peak")
    rows: list[tuple[str, ...]] = [
        (side["name"], *(_mib(side["memory"][name]) for name in ("ready_mib", "peak_mib")))
        for side in document["sides"]
    ]
    return columns, rows


def growth_table(document: dict[str, Any]) -> Table:
    """How cost grows, a row for every point and side, each curve in one piece."""
    curves = list(dict.fromkeys((row["axis"], row["side"]) for row in document["growth"]))
    columns = ("side", "axis", "value", "s", "questions/s", "windows", "tokens", "tokens/s", "MiB ready", "MiB peak")
    rows: list[tuple[str, ...]] = [
        (
            row["side"],
            row["axis"].replace("_", " "),
            f"{row['value']:,}",
            f"{row['seconds']:.3f}",
            f"{row['questions_per_s']:.2f}",
            f"{row['windows']:,}",
            f"{row['tokens']:,}",
            f"{row['tokens_per_s']:,.0f}",
            _mib(row["ready_rss_mib"]),
            _mib(row["peak_rss_mib"]),
        )
        for row in sorted(document["growth"], key=lambda row: curves.index((row["axis"], row["side"])))
    ]
    return columns, rows


def _cell(row: dict[str, Any]) -> str:
    return f"{row['batch']}x{row['length']}"


def _percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def show_benchmark(document: dict[str, Any]) -> None:
    """Every section that the document has, as a table on stdout."""
    if "latency" in document:
        print_table("latency", *latency_table(document))
    if "squad" in document:
        squad = document["squad"]
        print_table(f"{squad['file']}, {squad['questions']:,} questions, end to end", *squad_table(document))
    if len(document["sides"]) > 1 and ("latency" in document or "squad" in document):
        print_table(f"compared with {document['sides'][0]['name']}", *ratio_table(document))
    if "memory" in document["sides"][0]:
        print_table("MiB in RAM of a fresh process", *memory_table(document))
    if "growth" in document:
        print_table("how cost grows", *growth_table(document))
