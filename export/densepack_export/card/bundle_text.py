"""The card of a bundle on the Hugging Face hub: what it is, what proves it, how to ask it.

card = bundle_card(bundle.manifest, "owner/name", "apache-2.0")
"""

from __future__ import annotations

from huggingface_hub import ModelCardData

from densepack_export.card.text import table, usage
from densepack_runtime.bundle import Manifest
from densepack_runtime.bundle.publishing import CARD_MARK


def bundle_card(manifest: Manifest, name: str, license_id: str | None) -> str:
    """The whole file; `name` is what the bundle is opened by."""
    data = ModelCardData(
        license=license_id,
        library_name="densepack",
        pipeline_tag="question-answering",
        tags=["question-answering", "pruning", "onnx"],
    )
    parts = (
        f"---\n{data.to_yaml()}\n---",
        CARD_MARK,
        f"# {name}",
        _introduction(manifest),
        _files(manifest),
        _use(name),
    )
    return "\n\n".join(parts) + "\n"


def _introduction(manifest: Manifest) -> str:
    structure, parity = manifest.model.structure, manifest.parity
    proven = parity.summary if parity.checked else "nothing shows that it answers like its checkpoint"
    return (
        f"A densepack bundle of {manifest.model.name} for extractive question answering: "
        f"{100 * structure.linear_density:.1f} % of the linear weights are left, {structure.parameters:,} of "
        f"{structure.dense().parameters:,} parameters. It runs without PyTorch.\n\nWhen it was built: {proven}."
    )


def _files(manifest: Manifest) -> str:
    rows = [(name, f"{entry.bytes:,}", f"`{entry.sha256}`") for name, entry in sorted(manifest.files.items())]
    return table(("file", "bytes", "sha256"), rows)


def _use(name: str) -> str:
    asked = '-q "Who built it?" -c "It was built by Anna Berg."'
    return f"## Use\n\n```sh\ndensepack answer {name} {asked}\n```\n\n```python\n{usage(name)}```"
