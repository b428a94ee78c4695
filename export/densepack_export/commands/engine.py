"""The command `build-engine`; registered by `densepack_export.cli`, and as light at import."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from densepack_export.commands.options import FlavourOption, LengthsOption, MaxBatchOption, numbers
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import BundleArgument, JsonOption, app
from densepack_runtime.host.console import print_json, print_table, tell, told_here
from densepack_runtime.host.records import data_from_record
from densepack_runtime.sessions.session import Precision


@app.command("build-engine")
def build_plan_command(
    bundle: BundleArgument,
    flavour: FlavourOption = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the graph that the plan is built from.")] = "fp16",
    lengths: LengthsOption = "64,128,256,384",
    max_batch: MaxBatchOption = 32,
    latency: Annotated[bool, typer.Option("--latency", help="Add narrow profiles for batch 1.")] = False,
    attention: Annotated[
        Literal["fused", "written-out"],
        typer.Option(help="fused: one kernel or an error (float16 only); written-out: TensorRT finds out."),
    ] = "fused",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="tensorrt-rtx: GPUs to build for, such as 8.6; may be repeated.", show_default=False),
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How hard TensorRT looks for fast kernels.", show_default=False)
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB of GPU memory for kernels to work in.", show_default=False)
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: also run with later versions, somewhat slower.")
    ] = False,
    allow_fp32: Annotated[
        bool, typer.Option("--allow-fp32", help="Accept matrix products that are not in float16.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """(Re)build a TensorRT plan from the bundle's ONNX graph, and check it if it can run here.

    Example: densepack build-engine bundle --flavour tensorrt --max-batch 16
    """
    from densepack_export.bundle_changes import add_plan
    from densepack_export.plans.into_bundle import PlanRequest, plan_rows

    request = PlanRequest(
        flavour=flavour,
        precision=precision,
        lengths=numbers(lengths),
        max_batch=max_batch,
        latency=latency,
        attention=attention,
        compute_capabilities=tuple(compute_capability or ()),
        workspace_mib=workspace,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        allow_fp32=allow_fp32,
    )
    entry = add_plan(Bundle.open(bundle), request, told_here(tables=False))
    if json_output:
        print_json(data_from_record(entry))
        return
    print_table(entry.plan, ("what", "value"), plan_rows(entry))
    tell(f"wrote {bundle}")
