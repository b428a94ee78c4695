"""The command `report`; registered by `densepack_export.cli`, and as light at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densepack_export.report.writing import PACKAGES, write_into_bundle, write_report
from densepack_runtime.bundle import REPORT_NAME, Bundle
from densepack_runtime.bundle.places import locate_bundle
from densepack_runtime.commands.options import JsonOption, app
from densepack_runtime.errors import InputError, require
from densepack_runtime.host.console import print_json, tell


@app.command()
def report(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE [BUNDLE…]", help="Folders, archives, or owner/name on the hub.")
    ],
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(
            "--bench", help="A document of `densepack bench --out`; several are shown one by one.", show_default=False
        ),
    ] = None,
    squad: Annotated[
        Path | None,
        typer.Option(
            "--squad", help="The SQuAD file of the build, for gold answers; the sample is known.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"HTML file to write; for one bundle by default its {REPORT_NAME}.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
    json_output: JsonOption = False,
) -> None:
    """One HTML page that needs no network: what is left of a model, whether it still answers, how fast it is.

    Example: densepack report bundle --bench bench.json --out report.html
    """
    for package in PACKAGES:
        require(package, "report")
    from densepack_export.report.facts import gather

    if out is None and len(bundles) > 1:
        raise InputError(f"one page about {len(bundles)} bundles belongs to none of them: say where with --out FILE")
    path = out or locate_bundle(bundles[0]) / REPORT_NAME
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: pass --overwrite to replace it, or --out FILE")
    facts = gather(bundles, benchmarks=benchmarks or (), squad=squad)
    if out is None:
        write_into_bundle(Bundle(path.parent, facts.bundles[0].manifest), facts)
    else:
        write_report(facts, out)
    size = path.stat().st_size
    if json_output:
        print_json({"report": str(path), "bytes": size})
    tell(f"wrote {path}, {size / 2**10:.0f} KiB")
