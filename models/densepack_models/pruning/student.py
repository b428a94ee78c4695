"""The module that is trained: transformers' own BERT, each layer as narrow as the checkpoint's, and back to files.

Training wants transformers' forward (dropout, fused attention) and its tensor names; the packed module is for running.

    student = student_from_checkpoint(load_checkpoint("start/"))
    start, end = student(input_ids, attention_mask, token_type_ids)
    packed = packed_student(student)                              # masks applied, cut, as a PackedBert
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering
from transformers.models.bert.modeling_bert import BertAttention, BertLayer

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.writer import published_config, published_heads, published_tensors
from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.packing import pack
from densepack_models.pruning.fast_layers import FastDropout, use_fast_layers
from densepack_models.pruning.masked import Masks, MaskSettings, attach_masks, encoder_layers
from densepack_models.reference import reference_module
from densepack_models.weights import tensors_from_module
from densepack_runtime.structure import Structure


class NoHeads(nn.Module):
    """Self-attention without a head: nothing to project."""

    def forward(self, hidden: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        return hidden[..., :0], None


class NoUnits(nn.Module):
    """An FFN without a unit."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[..., :0]


class ConstantDense(nn.Module):
    """An output projection of nothing: its bias, [H], for every token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, nothing: Tensor) -> Tensor:
        return self.bias.expand(*nothing.shape[:-1], -1)


class Student(nn.Module):
    """transformers' BERT in the shape of `structure`, with masks on its linear layers or without.

    `start` is the checkpoint that it was made from, without its tensors.
    """

    def __init__(self, bert: BertForQuestionAnswering, structure: Structure, start: Checkpoint) -> None:
        super().__init__()
        self.bert = bert
        self.structure = structure
        self.start = replace(start, tensors={})
        self.masks: Masks | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, S] in; start and end logits out, [B, S] each."""
        if self.masks is not None:
            self.masks.refresh(noisy=self.training)
        output = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return output.start_logits, output.end_logits


def student_from_checkpoint(checkpoint: Checkpoint, masks: MaskSettings | None = None) -> Student:
    """Pack the checkpoint exactly and build its trainable module; with `masks`, nothing is masked yet."""
    with torch.random.fork_rng(devices=[]):  # modules are born random, and a run must not depend on that
        packed = pack(checkpoint)
        bert = reference_module(checkpoint).bert
        student = student_from_tensors(bert, packed.structure, checkpoint, tensors_from_module(packed))
    if masks is not None:
        student.masks = attach_masks(bert, packed.structure, masks)
    return student


def student_from_tensors(
    bert: BertForQuestionAnswering, structure: Structure, start: Checkpoint, tensors: dict[str, Tensor]
) -> Student:
    """Narrow a full-size module to a structure, and give it the tensors of that shape."""
    for layer, narrow in zip(encoder_layers(bert), structure.layers, strict=True):
        _narrow_attention(layer.attention, len(narrow.heads) * structure.head_size, structure.hidden_size)
        _narrow_ffn(layer, narrow.ffn_width, structure.hidden_size)
    use_fast_layers(bert)
    bert.load_state_dict(tensors, strict=True)
    return Student(bert, structure, start)


def _narrow_attention(attention: BertAttention, width: int, hidden: int) -> None:
    if width == attention.self.query.out_features:
        return
    if width == 0:
        attention.self = NoHeads()  # type: ignore[assignment]
        attention.output.dense = ConstantDense(hidden)  # type: ignore[assignment]
        return
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(hidden, width))
    attention.output.dense = nn.Linear(width, hidden)


def _narrow_ffn(layer: BertLayer, width: int, hidden: int) -> None:
    if width == layer.intermediate.dense.out_features:
        return
    if width == 0:
        layer.intermediate = NoUnits()  # type: ignore[assignment]
        layer.output.dense = ConstantDense(hidden)  # type: ignore[assignment]
        return
    layer.intermediate.dense = nn.Linear(hidden, width)
    layer.output.dense = nn.Linear(width, hidden)


def set_dropout(student: Student, hidden: float, attention: float) -> None:
    """Dropout of hidden states and of attention weights, 0 to 1."""
    for name, module in student.bert.named_modules():
        if isinstance(module, FastDropout):
            module.p = attention if name.endswith("attention.self.dropout") else hidden


# --- back to tensors and files ----------------------------------------------------------------------------------------


def plain_tensors(student: Student) -> dict[str, Tensor]:
    """The tensors in the student's shape under transformers' names, on the CPU, as evaluation sees them.

    With masks, those of the last threshold are applied: what is masked is exactly zero.
    """
    if student.masks is not None:
        student.masks.refresh_final()
    tensors = {}
    with torch.no_grad():
        for name, parameter in student.bert.named_parameters():
            if ".parametrizations." not in name:
                tensors[name] = parameter.detach().cpu().clone()
                continue
            owner, _, rest = name.partition(".parametrizations.")
            attribute = rest.split(".", 1)[0]
            tensors[f"{owner}.{attribute}"] = getattr(student.bert.get_submodule(owner), attribute).detach().cpu()
    return tensors


def finished_checkpoint(student: Student) -> Checkpoint:
    """The student as a checkpoint in memory, in the published layout: units and heads at their original places."""
    structure = student.structure
    return replace(
        student.start,
        config=student.start.config | published_config(structure),
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
