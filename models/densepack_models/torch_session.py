"""PyTorch is just another Session: a module with (input_ids, attention_mask, token_type_ids) -> (start, end).

session = TorchSession(packed)
logits = session.run(batch)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densepack_runtime.errors import BackendError
from densepack_runtime.session import Batch, Logits


class TorchSession:
    """Runs a module without gradients and returns float32 logits.

    `threads` sets PyTorch's threads, which are those of the whole process. The module is not copied.
    """

    def __init__(self, module: nn.Module, *, device: str = "cpu", threads: int | None = None) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"device {device!r} was asked for and PyTorch sees no CUDA GPU: use device='cpu'")
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = device
        self._module: nn.Module | None = module.eval().to(device)

    def run(self, batch: Batch) -> Logits:
        """Logits of one batch. Raises BackendError when the session is closed."""
        if self._module is None:
            raise BackendError("the PyTorch session is closed")
        inputs = [torch.from_numpy(array).to(self._device) for array in batch.arrays().values()]
        with torch.inference_mode():
            start, end = self._module(*inputs)
        return Logits(_to_numpy(start), _to_numpy(end))

    def run_many(self, batches: Iterable[Batch]) -> Iterator[Logits]:
        """Logits of each batch, in order."""
        return map(self.run, batches)

    def close(self) -> None:
        """Let the module go."""
        self._module = None


def _to_numpy(logits: Tensor) -> NDArray[np.float32]:
    return logits.float().cpu().numpy()
