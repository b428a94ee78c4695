"""Versions that a manifest, a benchmark or a bug report has to name."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "densepack",
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "onnx",
    "onnxscript",
    "torch",
    "transformers",
)


def package_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that matter to a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
