"""A bundle: the folder that a production host needs, and nothing more.

    bundle.json       the manifest: hash and size of every other file, the model, its tensors, its engines, the verdict
    tokenizer.json    model.onnx (FP32)    model.fp16.onnx    engines/*.plan    reference.npz    parity.json
    report.html

It travels as a repository of the Hugging Face hub, or as one file:

    bundle = Bundle.open("bundle/")                  # "owner/name", "owner/name@v1" or "bundle.tar" as well
    bundle.path("model.onnx"), bundle.manifest.max_length
"""

from densepack_runtime.bundle.folder import (
    Bundle,
    BundleDraft,
    FailedBundleWarning,
    UncheckedBundleWarning,
    UnprovenBundleWarning,
    edit_bundle,
    refuse_copy,
    strangers_in,
    write_bundle,
)
from densepack_runtime.bundle.manifest import (
    ENGINES_FOLDER,
    MANIFEST,
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    ONNX_NAMES,
    PARITY_NAME,
    REFERENCE_NAME,
    REPORT_NAME,
    TIMING_CACHE_NAME,
    ClosedPrecision,
    FileEntry,
    Manifest,
    ModelEntry,
    ParityEntry,
    TensorEntry,
)

__all__ = [
    "ENGINES_FOLDER",
    "MANIFEST",
    "MANIFEST_NAME",
    "MANIFEST_SCHEMA",
    "ONNX_NAMES",
    "PARITY_NAME",
    "REFERENCE_NAME",
    "REPORT_NAME",
    "TIMING_CACHE_NAME",
    "Bundle",
    "BundleDraft",
    "ClosedPrecision",
    "FailedBundleWarning",
    "FileEntry",
    "Manifest",
    "ModelEntry",
    "ParityEntry",
    "TensorEntry",
    "UncheckedBundleWarning",
    "UnprovenBundleWarning",
    "edit_bundle",
    "refuse_copy",
    "strangers_in",
    "write_bundle",
]
