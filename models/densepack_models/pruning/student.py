"""The module that is trained: transformers' own, each layer as narrow as the checkpoint's, and back to files.

Training wants transformers' forward (dropout, fused attention), and states of a training are saved under its names.
Everything here asks for its parts by the packed module's names.

    student = student_from_checkpoint(load_checkpoint("start/"))
    start, end = student(input_ids, attention_mask, token_type_ids)
    packed = packed_student(student)                              # masks applied, cut, as a PackedBert
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.tensors import QKV
from densepack_models.formats.writer import published_config, published_heads, published_tensors
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.pruning.fast_layers import FastDropout, FastSelfAttention, use_fast_layers
from densepack_models.pruning.masked import Masks, MaskSettings, attach_masks
from densepack_models.reference import reference_module
from densepack_models.weights import tensors_from_module
from densepack_runtime.structure import Structure


class NoUnits(nn.Module):
    """An FFN without a unit. `output` is what its output projection is called, where that is a part of it."""

    def __init__(self, output: str | None) -> None:
        super().__init__()
        self._output = output

    def forward(self, hidden: Tensor) -> Tensor:
        empty = hidden[..., :0]
        constant: Tensor = empty if self._output is None else self.get_submodule(self._output)(empty)
        return constant


class NoHeads(NoUnits):
    """Self-attention without a head, in the same way."""

    def forward(self, hidden: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(hidden), None


class ConstantDense(nn.Module):
    """An output projection of nothing: its bias, [H], for every token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, nothing: Tensor) -> Tensor:
        return self.bias.expand(*nothing.shape[:-1], -1)


class Student(nn.Module):
    """transformers' module in the shape of `structure`, with masks on its linear layers or without.

    `start` is the checkpoint that it was made from, without its tensors.
    """

    def __init__(self, bert: nn.Module, structure: Structure, start: Checkpoint) -> None:
        super().__init__()
        self.bert = bert
        self.structure = structure
        self.start = replace(start, tensors={})
        self.masks: Masks | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, S] in; start and end logits out, [B, S] each."""
        if self.masks is not None:
            self.masks.refresh(noisy=self.training)
        types = {"token_type_ids": token_type_ids} if self.structure.token_types == "fed" else {}
        output = self.bert(input_ids=input_ids, attention_mask=attention_mask, **types)
        return output.start_logits, output.end_logits

    def linear(self, name: str) -> nn.Linear:
        """The layer that the packed module calls `name`, "layer.3.ffn.output"."""
        found = self.bert.get_submodule(self.start.family.file_name(name))
        assert isinstance(found, nn.Linear)
        return found


def student_from_checkpoint(checkpoint: Checkpoint, masks: MaskSettings | None = None) -> Student:
    """Pack the checkpoint exactly and build its trainable module; with `masks`, nothing is masked yet."""
    with torch.random.fork_rng(devices=[]):  # modules are born random, and a run must not depend on that
        packed = pack(checkpoint)
        bert = reference_module(checkpoint).model
        student = student_from_tensors(bert, packed.structure, checkpoint, tensors_from_module(packed))
    if masks is not None:
        student.masks = attach_masks(student.linear, packed.structure, masks)
    return student


def student_from_tensors(
    bert: nn.Module, structure: Structure, start: Checkpoint, tensors: dict[str, Tensor]
) -> Student:
    """Narrow a full-size module to a structure, and give it the tensors of that shape."""
    student = Student(bert, structure, start)
    for index, layer in enumerate(structure.layers):
        attention = [f"layer.{index}.attention.{name}" for name in QKV]
        _narrow(student, attention, f"layer.{index}.attention.output", len(layer.heads) * structure.head_size, NoHeads)
        _narrow(student, [f"layer.{index}.ffn.intermediate"], f"layer.{index}.ffn.output", layer.ffn_width, NoUnits)
    use_fast_layers(bert)
    bert.load_state_dict(start.family.file_names(tensors), strict=True)
    return student


def _narrow(
    student: Student, inner: Sequence[str], outer: str, width: int, nothing: Callable[[str | None], nn.Module]
) -> None:
    """Give a block `width` between its inner and outer projections; at 0 `nothing` is there, and a constant."""
    hidden = student.structure.hidden_size
    if width == student.linear(outer).in_features:
        return
    if width == 0:
        whole, _, _ = student.start.family.file_name(inner[0]).rpartition(".")
        constant = student.start.family.file_name(outer)
        inside = constant.removeprefix(f"{whole}.") if constant.startswith(f"{whole}.") else None
        _replace(student.bert, whole, nothing(inside))
        _replace(student.bert, constant, ConstantDense(hidden))
        return
    for name in inner:
        _replace(student.bert, student.start.family.file_name(name), nn.Linear(hidden, width))
    _replace(student.bert, student.start.family.file_name(outer), nn.Linear(width, hidden))


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(module.get_submodule(owner), name, part)


def set_dropout(student: Student, hidden: float, attention: float) -> None:
    """Dropout of hidden states and of attention weights, 0 to 1."""
    modules = list(student.bert.modules())
    for module in modules:
        if isinstance(module, FastDropout):
            module.p = hidden
    for module in modules:
        if isinstance(module, FastSelfAttention):
            module.dropout.p = attention


# --- back to tensors and files ----------------------------------------------------------------------------------------


def plain_tensors(student: Student) -> dict[str, Tensor]:
    """The tensors in the student's shape, on the CPU, as evaluation sees them.

    With masks, those of the last threshold are applied: what is masked is exactly zero.
    """
    if student.masks is not None:
        student.masks.refresh_final()
    tensors = {}
    with torch.no_grad():
        for parameter, _ in student.bert.named_parameters():
            path = re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", parameter)
            owner, _, attribute = path.rpartition(".")
            tensor = getattr(student.bert.get_submodule(owner), attribute)
            tensors[student.start.family.canonical_name(path)] = tensor.detach().cpu().clone()
    return tensors


def finished_checkpoint(student: Student) -> Checkpoint:
    """The student as a checkpoint in memory, in the published layout: units and heads at their original places."""
    structure = student.structure
    return replace(
        student.start,
        config=student.start.config | published_config(structure, student.start.family),
        tensors=published_tensors(structure, plain_tensors(student)),
        heads=tuple(published_heads(structure)),
        head_ids=structure.head_ids,
        ffn_positions=structure.ffn_positions,
        structure=None,
    )


def packed_student(student: Student) -> PackedBertForQuestionAnswering:
    """What the student is worth: its packed module at the last threshold, float32 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        return pack(finished_checkpoint(student))
