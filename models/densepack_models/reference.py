"""Rung 0: transformers' own module at full size; what a checkpoint no longer has comes back as zeros.

This is the yardstick for everything else, so it shares no arithmetic with the packed module: transformers' forward, its
mask, its scale. A head that was cut contributes nothing, and neither does one whose weights are all zero.

    reference = reference_module(load_checkpoint("checkpoint/"))
    start, end = reference(input_ids, attention_mask, token_type_ids)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedModel

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.formats.tensors import HEAD_AXES, UNIT_AXES, head_rows, spread
from densepack_runtime.structure import TokenTypes


class ReferenceModule(nn.Module):
    """transformers' module with the inputs and outputs that every module here has."""

    def __init__(self, model: PreTrainedModel, token_types: TokenTypes) -> None:
        super().__init__()
        self.model = model
        self._fed = token_types == "fed"
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, S] in; start and end logits [B, S] out."""
        types = {"token_type_ids": token_type_ids} if self._fed else {}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return output.start_logits, output.end_logits


class _ElementwiseNorm(nn.Module):
    """What a checkpoint with `no_norm` has in place of LayerNorm."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.addcmul(self.bias, hidden, self.weight)


def reference_module(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> ReferenceModule:
    """The full-size module of a checkpoint, in `dtype`, strictly loaded (RuntimeError would be a fault of ours)."""
    family = checkpoint.family
    keys = {key for field, key in family.config_keys.items() if field != "layer_norm_type"}
    # What else config.json may say (labels, dropout, how outputs are returned) does not change the numbers.
    told = {key: checkpoint.config[key] for key in keys} | {"pad_token_id": checkpoint.blank.position_pad_id or 0}
    config = AutoConfig.for_model(family.model_type, **told)
    model: PreTrainedModel = AutoModelForQuestionAnswering.from_config(config)  # type: ignore[no-untyped-call]
    if checkpoint.blank.layer_norm_type == "no_norm":
        _replace_norms(model)
    nn.Module.to(model, dtype)  # transformers' own `to` is typed for other things
    model.load_state_dict(_full_size_tensors(checkpoint, dtype), strict=True)
    return ReferenceModule(model, checkpoint.blank.token_types)


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.LayerNorm):
            setattr(module, name, _ElementwiseNorm(child.weight.numel()))
        else:
            _replace_norms(child)


def _full_size_tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors under transformers' names, in `dtype`, at full size: what was cut is zeros at the place it had."""
    sizes = checkpoint.blank
    tensors = {name: tensor.to(dtype) for name, tensor in checkpoint.tensors.items()}
    for index, heads in enumerate(checkpoint.heads):
        spread(tensors, index, HEAD_AXES, places=head_rows(heads, sizes.head_size), size=sizes.hidden_size)
        spread(tensors, index, UNIT_AXES, places=_unit_places(checkpoint, index), size=sizes.intermediate_size)
    return checkpoint.family.file_names(tensors)


def _unit_places(checkpoint: Checkpoint, index: int) -> Sequence[int]:
    """Where the stored FFN units of a layer belong. Zero units that packing padded with have no place: left out."""
    if checkpoint.structure is not None:
        return checkpoint.structure.layers[index].ffn_units
    return range(len(checkpoint.tensors[f"layer.{index}.ffn.intermediate.bias"]))
