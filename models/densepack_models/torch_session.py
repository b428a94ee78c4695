"""PyTorch is just another Session: a module with (input_ids, attention_mask, token_type_ids) -> (start, end).

session = TorchSession(packed)
logits = session.run(batch)
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densepack_runtime.errors import BackendError
from densepack_runtime.sessions.options import DEFAULT, SessionOptions
from densepack_runtime.sessions.session import Batch, Logits, SessionBase


class TorchSession(SessionBase):
    """Runs a module without gradients and returns float32 logits.

    Threads that are asked for are PyTorch's, which are those of the whole process. The module is not copied. `compiled`
    runs it through torch.compile with its defaults: calls with new shapes take long, until they are compiled. Raises
    BackendError for a GPU that is not there, and when it shall be compiled and there is no C++ compiler.
    """

    def __init__(
        self, module: nn.Module, *, device: str = "cpu", options: SessionOptions = DEFAULT, compiled: bool = False
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"device {device!r} was asked for and PyTorch sees no CUDA GPU: use device='cpu'")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device = device
        module = module.eval().to(device)
        if compiled:
            _need_compiler()
        self._module: Callable[..., tuple[Tensor, Tensor]] | None = torch.compile(module) if compiled else module

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the session is closed."""
        if self._module is None:
            raise BackendError("the PyTorch session is closed")
        inputs = [torch.from_numpy(array).to(self._device) for array in batch.arrays().values()]
        with torch.inference_mode():
            start, end = self._module(*inputs)
        return Logits(_to_numpy(start), _to_numpy(end))

    def close(self) -> None:
        """Let the module go."""
        self._module = None


def _need_compiler() -> None:
    """PyTorch would only find out in the first call, and tell it in a long traceback."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX") or usual
    if shutil.which(compiler) is None:
        raise BackendError(
            f"torch.compile needs a C++ compiler and {compiler} is not here: install it, name another one in the "
            "environment variable CXX, or run the module as it is"
        )


def _to_numpy(logits: Tensor) -> NDArray[np.float32]:
    return logits.float().cpu().numpy()
