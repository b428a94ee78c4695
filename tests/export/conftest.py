"""Small exported graphs that the tests of this folder share; each is exported once a test run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from densepack_export.graphs.onnx_export import OnnxExport, export_onnx
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_runtime.sessions.session import Precision
from densepack_runtime.structure import Structure

VARIANTS = ("gelu", "no_norm_relu", "gelu_new")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@dataclass(frozen=True, slots=True)
class Exported:
    """A module with random weights and the file that was made of it."""

    module: PackedBertForQuestionAnswering
    path: Path
    report: OnnxExport


ExportedBy = Callable[[str, Precision], Exported]


def variant(structure: Structure, name: str) -> Structure:
    """The tiny structure (a layer without heads, one without units, odd widths) with other norms and activations."""
    if name == "no_norm_relu":
        return replace(structure, layer_norm_type="no_norm", hidden_act="relu")
    return replace(structure, hidden_act="gelu_new") if name == "gelu_new" else structure


def random_module(structure: Structure, seed: int = 0) -> PackedBertForQuestionAnswering:
    """Random weights, norms and constant biases included, so that no two parameters are equal."""
    torch.manual_seed(seed)
    module = PackedBertForQuestionAnswering(structure)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="session")
def exported(tiny_structure: Structure, tmp_path_factory: pytest.TempPathFactory) -> ExportedBy:
    made: dict[tuple[str, Precision], Exported] = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(name: str, precision: Precision) -> Exported:
        if (name, precision) not in made:
            module = random_module(variant(tiny_structure, name))
            path = folder / f"{name}.{precision}.onnx"
            made[name, precision] = Exported(module, path, export_onnx(module, path, precision=precision))
        return made[name, precision]

    return get
