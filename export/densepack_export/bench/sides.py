"""The contestants of `densepack bench`: what `SIDE` on the command line means.

    SIDE = SOURCE[@VARIANT]      SOURCE: a bundle, a checkpoint folder or hub id, or `seed`
                                 VARIANT: packed (default) or dense, each with what runs it behind it: dense-torch-bf16

`seed` is the shape of the published model with random weights. `dense` is the same model with nothing removed and
random weights: the time of a matrix product does not depend on its values. A bundle has no PyTorch module, so that
PyTorch runs its shape with random weights, too.

What opens a side can be sent to another process, which then imports this module and not PyTorch unless the side needs
it: the memory that is measured there is that of the side.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from densepack_export.bench.names import SideName
from densepack_export.bench.openers import BundleOpener, texts_of_bundle
from densepack_runtime.benchmark.sides import Side
from densepack_runtime.bundle import MANIFEST_NAME, Bundle
from densepack_runtime.errors import require
from densepack_runtime.sessions.options import DEFAULT, SessionOptions


def open_side(text: str, opened: ExitStack, options: SessionOptions = DEFAULT) -> Side:
    """Open one contestant; it is closed with `opened`. Raises InputError or the error of what it is made from."""
    name = SideName.parse(text)
    folder = Path(name.source)
    bundle = Bundle.open(folder) if (folder / MANIFEST_NAME).is_file() else None
    if bundle is not None and not name.dense and not name.kind.is_torch:
        side = _of_bundle(name, bundle, options)
    else:
        for package in ("torch", "transformers", "onnx"):
            require(package, "export")
        from densepack_export.bench.modules import side_of_module

        side = side_of_module(name, bundle, opened, options)
    opened.enter_context(side.session)
    return side


def _of_bundle(name: SideName, bundle: Bundle, options: SessionOptions) -> Side:
    kind = name.kind
    opener = BundleOpener(bundle.folder, kind)
    return Side(
        name=str(name),
        session=opener(options),
        cost=bundle.manifest.model.structure.cost,
        backend=kind.backend,
        precision=kind.precision,
        on_gpu=kind.gpu,
        batching=kind.batching,
        texts=texts_of_bundle(bundle),
        open_again=opener,
    )
