"""The command `densepack`: the production commands of the runtime, and those that need PyTorch.

At start this imports only densepack_runtime; every heavy command loads what it needs when it is called, so the same
command works on a production host.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from densepack_export import bench_cli, card_cli, engine_cli, prune_cli, report_cli  # noqa: F401  # their commands
from densepack_export.report.writing import refresh_report
from densepack_export.story import Story
from densepack_runtime.allocator import keep_freed_memory
from densepack_runtime.bundle import PARITY_NAME, Bundle, edit_bundle
from densepack_runtime.cli import (
    BundleArgument,
    JsonOption,
    LimitOption,
    SquadOption,
    ThreadsOption,
    app,
    load_squad,
)
from densepack_runtime.console import print_json, print_table, progress_bar, run_command_line, tell
from densepack_runtime.errors import InputError, ParityError, require
from densepack_runtime.files import write_text_atomic
from densepack_runtime.ladder import bundle_run, climb_from_recording
from densepack_runtime.parity import (
    PARITY_COLUMNS,
    WORST_COLUMNS,
    ParityReport,
    ParityRun,
    parity_entry,
    parity_rows,
    worst_rows,
)
from densepack_runtime.session import Precision
from densepack_runtime.squad import SquadDataset

CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder, or a model id on the Hugging Face hub.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.", show_default=False)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there, once the new one is whole.")]
PadToOption = Annotated[int, typer.Option(min=1, help="Round FFN widths up to this multiple with zero units.")]


def main() -> None:
    """Entry point of the command `densepack`."""
    keep_freed_memory()
    run_command_line(app)


def _need_torch() -> None:
    for package in ("torch", "transformers", "onnx"):
        require(package, "export")


@app.command()
def inspect(
    checkpoint: CheckpointArgument,
    revision: RevisionOption = None,
    json_output: JsonOption = False,
) -> None:
    """Per layer: heads, FFN units, densities; totals.

    Example: densepack inspect madlag/bert-base-uncased-squadv1-x2.44-f87.7-d26-hybrid-filled-v1
    """
    _need_torch()
    from densepack_models import inspect as inspect_checkpoint
    from densepack_models import load_checkpoint

    inspection = inspect_checkpoint(load_checkpoint(checkpoint, revision=revision))
    if json_output:
        print_json(inspection.as_dict())
        return
    print_table(inspection.source, inspection.columns(), inspection.rows())
    print_table("totals", ("what", "value"), inspection.totals())
    for note in inspection.notes:
        tell(f"note: {note}")


@app.command()
def pack(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    format_: Annotated[
        Literal["packed", "transformers"],
        typer.Option("--format", help="Ours, or as the published models are stored (other tools read that)."),
    ] = "packed",
    pad_to: PadToOption = 1,
    drop_query_dead_heads: Annotated[
        bool, typer.Option("--drop-query-dead-heads", help="Lossy: also remove heads whose queries or keys are zero.")
    ] = False,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Remove what a checkpoint no longer uses, and say how exact that is.

    Example: densepack pack checkpoint/ packed/
    """
    _need_torch()
    from densepack_models.checkpoint import load_checkpoint
    from densepack_models.checkpoint_writer import write_packed, write_transformers
    from densepack_models.packing import logit_difference, pack_with_report

    writers = {"packed": write_packed, "transformers": write_transformers}
    source = load_checkpoint(checkpoint, revision=revision)
    packed, report = pack_with_report(source, pad_to=pad_to, drop_query_dead_heads=drop_query_dead_heads)
    difference = logit_difference(source, packed)
    writers[format_](packed, out, tokenizer_json=source.tokenizer_json, overwrite=overwrite)
    if json_output:
        print_json({**report.as_dict(), "max_abs_logit": difference, "written": str(out)})
        return
    print_table(f"packed {source.source}", report.columns(), report.rows())
    print_table("totals", ("what", "value"), [*report.totals(), ("max |Δlogit| to the unpacked", f"{difference:.2g}")])
    for note in source.notes:
        tell(f"note: {note}")
    tell(f"wrote {out}")


@app.command()
def export(
    packed: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="ONNX file to write.")],
    precision: Annotated[Precision, typer.Option(help="Of the graph.")] = "fp32",
    pad_to: PadToOption = 1,
    revision: RevisionOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write the ONNX graph of a checkpoint, packed first if it is not yet.

    Example: densepack export packed/ model.fp16.onnx --precision fp16
    """
    _need_torch()
    from densepack_export.onnx_export import export_onnx
    from densepack_models import load_checkpoint
    from densepack_models import pack as pack_checkpoint

    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already: choose another name, or pass --overwrite")
    module = pack_checkpoint(load_checkpoint(packed, revision=revision), pad_to=pad_to)
    report = export_onnx(module, out, precision=precision)
    if json_output:
        print_json(report.as_dict())
    else:
        print_table(str(out), ("what", "value"), report.rows())


@app.command()
def build(
    checkpoint: CheckpointArgument,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder to write.")],
    squad: SquadOption = "sample",
    limit: LimitOption = None,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens in a window at most.")] = 384,
    doc_stride: Annotated[int, typer.Option(min=1, help="Tokens that neighbouring windows share.")] = 128,
    pad_to: PadToOption = 1,
    parity: Annotated[
        bool, typer.Option("--parity/--no-parity", help="Check every rung; recorded in the bundle.")
    ] = True,
    engine: Annotated[
        bool | None,
        typer.Option(
            "--engine/--no-engine",
            help="Build a TensorRT plan; by default where a TensorRT is installed.",
            show_default=False,
        ),
    ] = None,
    flavour: engine_cli.FlavourOption = "auto",
    lengths: engine_cli.LengthsOption = "64,128,256,384",
    max_batch: engine_cli.MaxBatchOption = 32,
    revision: RevisionOption = None,
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Pack, export, build the engine, check parity, write the report: from a checkpoint to a bundle.

    Example: densepack build models/checkpoints/default bundle --squad dev-v1.1.json
    """
    _need_torch()
    from densepack_export.build import BuildOptions, build_bundle
    from densepack_export.engine_build import EngineRequest

    options = BuildOptions(
        squad=load_squad(squad, limit),
        squad_name=Path(squad).name,
        max_length=max_length,
        doc_stride=doc_stride,
        pad_to=pad_to,
        parity=parity,
        engine=engine,
        engine_request=EngineRequest(flavour=flavour, lengths=engine_cli.numbers(lengths), max_batch=max_batch),
        revision=revision,
        overwrite=overwrite,
        threads=threads,
    )
    story = Story(tell, (lambda _: None) if json_output else show_parity, progress_bar)
    result = build_bundle(checkpoint, bundle, options, story)
    if json_output:
        print_json({"bundle": str(bundle), "manifest": json.loads(result.bundle.manifest.to_json())})
    tell(f"wrote {bundle}: {', '.join(sorted(result.bundle.manifest.files))}")


@app.command("parity")
def parity_command(
    bundle: BundleArgument,
    squad: SquadOption = "sample",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The original checkpoint: folder or hub id. Without it, PyTorch's recorded answers stand in.",
            show_default=False,
        ),
    ] = None,
    limit: LimitOption = None,
    threads: ThreadsOption = None,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Store the report and verdict in the bundle.")
    ] = False,
    bisect: Annotated[
        str | None,
        typer.Option(
            metavar="LEFT,RIGHT",
            help="Name where the hidden states of two sides part: fp32, fp16, fused, plan, torch, or ONNX files.",
            show_default=False,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Climb the ladder: exit 0 when every rung is within tolerance, 1 otherwise.

    Example: densepack parity bundle --checkpoint checkpoint/ --squad dev-v1.1.json
    """
    opened = Bundle.open(bundle)
    dataset = load_squad(squad, limit)
    run = bundle_run(opened, dataset, Path(squad).name)
    if bisect is not None:
        _bisect(opened, run, bisect, checkpoint, json_output=json_output)
        return
    with progress_bar("parity", len(run.windows)) as advance:
        run = replace(run, on_windows=advance)
        if checkpoint is None:
            report = climb_from_recording(opened, run, threads)
        else:
            report = _climb_from_checkpoint(opened, run, checkpoint, threads)
    if write:
        _store(opened, report, dataset)
    if json_output:
        print_json(report.as_dict())
    else:
        show_parity(report)
    if not report.passed:
        raise ParityError("parity failed: " + ("; ".join(report.failures) or "no rung was compared"))


def _bisect(bundle: Bundle, run: ParityRun, text: str, source: str | None, *, json_output: bool) -> None:
    require("onnx_ir", "export")
    from densepack_export.bisect import BISECT_COLUMNS, bisect, bisect_rows, departure, open_side

    names = text.split(",")
    if len(names) != 2:
        raise InputError(f"--bisect compares two sides separated by a comma, got {text!r}")
    module = None
    if source is not None:
        _need_torch()
        from densepack_models import load_checkpoint
        from densepack_models import pack as pack_checkpoint

        module = pack_checkpoint(load_checkpoint(source))
    batch = next(run.batches())
    with ExitStack() as opened:
        left, right = (open_side(name, bundle, opened, module) for name in names)
        points = bisect(left, right, batch)
    found = departure(points)
    if json_output:
        print_json({"left": left.name, "right": right.name, "points": [asdict(point) for point in points]})
    else:
        rows, length = batch.shape
        print_table(
            f"{right.name} against {left.name}, one batch of {rows}x{length}", BISECT_COLUMNS, bisect_rows(points)
        )
    if found is not None:
        raise ParityError(
            f"{right.name} leaves {left.name} at {found.name}: relative error {found.error:.2g} after {found.trend:.2g}"
        )
    tell(f"{right.name} follows {left.name} through all {len(points)} points")


def _climb_from_checkpoint(bundle: Bundle, run: ParityRun, source: str, threads: int | None) -> ParityReport:
    _need_torch()
    from densepack_export.verify import climb_from_checkpoint
    from densepack_models.checkpoint import load_checkpoint

    return climb_from_checkpoint(bundle, run, load_checkpoint(source), threads=threads)


def _store(bundle: Bundle, report: ParityReport, dataset: SquadDataset) -> None:
    with edit_bundle(bundle) as draft:
        text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
        write_text_atomic(draft.path(PARITY_NAME), text)
        draft.manifest = replace(draft.manifest, parity=parity_entry(report))
        refresh_report(draft, bundle.folder.resolve().name, tell, dataset)
    tell(f"stored the verdict in {bundle.folder}")


def show_parity(report: ParityReport) -> None:
    """The ladder as a table on stdout, then the worst questions of the rungs that differ."""
    print_table(
        f"parity on {report.squad_name}, {report.rungs[0].questions} questions", PARITY_COLUMNS, parity_rows(report)
    )
    worst = worst_rows(report)
    if worst:
        print_table("other answers than the reference's", WORST_COLUMNS, worst)
    for failure in report.failures:
        tell(f"failed: {failure}")


if __name__ == "__main__":
    main()
