"""The command `triton`: a bundle as a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densepack_export.commands.options import OverwriteOption
from densepack_export.triton.engine_model import Device
from densepack_export.triton.repository import TritonOptions, write_repository
from densepack_runtime.bundle import Bundle
from densepack_runtime.commands.options import BundleArgument, JsonOption, StrictOption, app
from densepack_runtime.host.console import print_json, tell, tell_next
from densepack_runtime.question_answering.answers import SpanRules
from densepack_runtime.sessions.session import Precision


@app.command("triton")
def triton_command(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model repository to write, a folder.")],
    device: Annotated[
        Device | None,
        typer.Option(
            help="Run the ONNX graph there, with ONNX Runtime; by default TensorRT plans, cpu where there are none.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="By default fp16 on a GPU where there is such a plan, fp32 on a CPU.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the model; NAME_engine is the one behind it.")] = "question_answering",
    timeout_ms: Annotated[int, typer.Option(min=1, help="Refuse a request that has waited so long.")] = 10_000,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait at once.")] = 1024,
    null_threshold: Annotated[
        float | None,
        typer.Option(help="SQuAD 2: no answer when its score is higher by so much.", show_default=False),
    ] = None,
    truncate_question: Annotated[bool, typer.Option("--truncate-question", help="Cut over-long questions.")] = False,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server: texts in, answers out.

    Example: densepack triton bundle models --device cpu
    """
    options = TritonOptions(
        name=name,
        device=device,
        precision=precision,
        timeout_ms=timeout_ms,
        max_queue=max_queue,
        rules=SpanRules(null_threshold=null_threshold),
        truncate_question=truncate_question,
        overwrite=overwrite,
    )
    engine = write_repository(Bundle.open(bundle, strict=strict), out, options)
    platform = str(engine.fields["platform"])
    if json_output:
        print_json({"repository": str(out), "model": name, "engine": options.engine_name, "platform": platform})
    tell(f"wrote {out}: {name}, and {options.engine_name} ({platform}: {', '.join(engine.files.values())})")
    tell_next(f"tritonserver --model-repository {out}", f"{name} answers texts")
