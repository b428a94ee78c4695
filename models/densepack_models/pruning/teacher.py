"""The teacher's logits of training windows: computed when a window is first seen, then read from disk.

teacher = Teacher(load_checkpoint("teacher/"), device, autocast=torch.bfloat16)
teacher.remember(windows, folder)
logits = teacher.logits(batch)                                    # SpanLogits, float32 [B, S]
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from densepack_models.formats.checkpoint import Checkpoint
from densepack_models.pruning.losses import SpanLogits
from densepack_models.pruning.student import student_from_checkpoint
from densepack_models.pruning.training_data import TrainingWindows
from densepack_runtime.errors import InputError


def refuse_other_vocabulary(teacher: Checkpoint, student: Checkpoint) -> None:
    """Raise InputError when the two would not see the same tokens; their families do not matter."""
    tokenizers = [Tokenizer.from_str(checkpoint.tokenizer_json) for checkpoint in (student, teacher)]
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    if ours != theirs:
        differing = sum(ours.get(token) != number for token, number in theirs.items())
        raise InputError(
            f"the teacher {teacher.source} has another vocabulary ({len(theirs)} tokens, the model has {len(ours)}; "
            f"{differing} have another id or none): its logits would be of other tokens"
        )
    for part in ("normalizer", "pre_tokenizer"):
        mine, other = (json.loads(checkpoint.tokenizer_json).get(part) for checkpoint in (student, teacher))
        if mine != other:
            raise InputError(
                f"the teacher {teacher.source} splits text otherwise ({part} {other}, the model's is {mine}): take a "
                "teacher with the same tokenizer"
            )
    mine, other = (tokenizer.encode("a", "a").tokens for tokenizer in tokenizers)
    if mine != other:
        raise InputError(
            f"the teacher {teacher.source} joins a question and a context otherwise ({' '.join(other)}, the model's is "
            f"{' '.join(mine)}): take a teacher with the same tokenizer"
        )


class Teacher:
    """A checkpoint, packed, that gives logits without gradients; always rounded to float16, as they are stored."""

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device | str = "cpu", *, autocast: torch.dtype | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.autocast = autocast
        self._module = student_from_checkpoint(checkpoint).to(self.device).eval().requires_grad_(False)
        self._store: _Store | None = None

    def remember(self, windows: TrainingWindows, folder: Path) -> None:
        """Keep logits of these windows in `folder`, beside those that are there already."""
        precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.autocast]
        name = f"teacher-{self.checkpoint.sha256[:16]}-{windows.key}-{self.device.type}-{precision}"
        self._store = _Store(folder / name, windows.offsets)

    def logits(self, batch: dict[str, Tensor]) -> SpanLogits:
        """Logits of a training batch (see TrainingBatches), on the batch's device; zeros at padding."""
        lengths = batch["attention_mask"].sum(1)
        if self._store is not None:
            chosen = batch["window"].cpu().numpy()
            if not self._store.has(chosen):
                computed = self._compute(batch)
                self._store.put(chosen, lengths.cpu().numpy(), _rounded(computed))
            stored = self._store.get(chosen, batch["input_ids"].shape[1])
            start, end = torch.from_numpy(stored).to(batch["input_ids"].device).unbind(-1)
            return SpanLogits(start, end)
        computed = self._compute(batch)
        return SpanLogits(*(part.half().float() for part in computed.pairs()))

    def _compute(self, batch: dict[str, Tensor]) -> SpanLogits:
        inputs = [batch[name].to(self.device) for name in ("input_ids", "attention_mask", "token_type_ids")]
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None),
        ):
            start, end = self._module(*inputs)
        return SpanLogits(start.float(), end.float())


def _rounded(logits: SpanLogits) -> NDArray[np.float16]:
    array: NDArray[np.float16] = torch.stack(logits.pairs(), -1).half().cpu().numpy()
    return array


class _Store:
    """Logits of windows in a memory-mapped file, float16 [tokens, 2], and which windows are there, uint8 [windows].

    A window is marked only after its logits are written, so that a killed run leaves nothing half-written behind.
    """

    def __init__(self, path: Path, offsets: NDArray[np.int64]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._offsets = offsets
        self._logits = _mapped(path.with_suffix(".logits"), np.dtype(np.float16), (int(offsets[-1]), 2))
        self._there = _mapped(path.with_suffix(".there"), np.dtype(np.uint8), (len(offsets) - 1,))

    def has(self, chosen: NDArray[np.int64]) -> bool:
        return bool(self._there[chosen].all())

    def put(self, chosen: NDArray[np.int64], lengths: NDArray[np.int64], logits: NDArray[np.float16]) -> None:
        for row, window in enumerate(chosen.tolist()):
            if not self._there[window]:  # what was used once is never changed
                first = self._offsets[window]
                self._logits[first : first + lengths[row]] = logits[row, : lengths[row]]
        self._there[chosen] = 1

    def get(self, chosen: NDArray[np.int64], width: int) -> NDArray[np.float32]:
        """float32 [B, width, 2], zeros behind the end of a window."""
        found = np.zeros((len(chosen), width, 2), dtype=np.float32)
        for row, window in enumerate(chosen.tolist()):
            first, last = self._offsets[window], self._offsets[window + 1]
            found[row, : last - first] = self._logits[first:last]
        return found


def _mapped(
    path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> np.memmap[tuple[int, ...], np.dtype[np.generic]]:
    size = int(np.prod(shape)) * dtype.itemsize
    mode: str = "r+" if path.is_file() and path.stat().st_size == size else "w+"
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)  # type: ignore[call-overload,no-any-return]
