"""EM and F1 of a student while it is trained: its packed module, through the runtime's windows, answers and metric.

score = Evaluator(read_squad("dev.json", limit=1000), tokenizer_json)(student)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.pruning.student import Student, packed_student
from densepack_models.torch_session import TorchSession
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import SquadDataset, SquadScore, score_predictions
from densepack_runtime.question_answering.windows import DOC_STRIDE, MAX_LENGTH, Windower


class Evaluator:
    """Scores students on one data set. The generators of random numbers are left as they were."""

    def __init__(
        self,
        dataset: SquadDataset,
        tokenizer_json: str,
        *,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
        longest: int = MAX_LENGTH,
    ) -> None:
        self.dataset = dataset
        length = min(MAX_LENGTH, longest)
        stride = min(DOC_STRIDE, length // 3)
        self._windower = Windower(tokenizer_json, max_length=length, doc_stride=stride)
        self._device, self._autocast = device, autocast

    def __call__(self, student: Student) -> SquadScore:
        """At the last threshold, however far the training is."""
        return self.score(packed_student(student))

    def score(self, packed: PackedBertForQuestionAnswering) -> SquadScore:
        """EM and F1 of a packed module."""
        module = packed if self._autocast is None else _Autocast(packed, self._device, self._autocast)
        session = TorchSession(module, device=self._device)
        predictions = QuestionAnswerer(session, self._windower, truncate_question=True).predict(self.dataset)
        session.close()
        return score_predictions(self.dataset, predictions)


class _Autocast(nn.Module):
    """Runs a module with matrix products in a shorter type."""

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._module, self._device, self._dtype = module, torch.device(device).type, dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device, dtype=self._dtype):
            start, end = self._module(*inputs)
        return start, end
