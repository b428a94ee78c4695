"""Where a model is trained or measured, and in which type its matrix products are."""

from __future__ import annotations

from typing import Literal

import torch

from densepack_models.pruning.options import ShrinkOptions, TrainingOptions
from densepack_runtime.errors import InputError

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def chosen_device(options: TrainingOptions | ShrinkOptions) -> Literal["cpu", "cuda"]:
    """The device that was asked for. Raises InputError when it is not here, or cannot do what is asked of it."""
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise InputError("device 'cuda' was asked for and PyTorch sees no CUDA GPU: use --device cpu")
    on_cpu = options.device == "cpu" or not there
    if on_cpu and options.precision == "fp16":
        raise InputError("training in fp16 needs a GPU; on a CPU take --precision bf16 or fp32")
    return "cpu" if on_cpu else "cuda"
