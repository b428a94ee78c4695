"""EM and F1 of a student while it is trained: its packed module, through the runtime's windows, answers and metric.

score = Evaluator(read_squad("dev.json", limit=1000), tokenizer_json)(student)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from densepack_models.packed_bert import PackedBertForQuestionAnswering
from densepack_models.pruning.student import Student, packed_student
from densepack_models.torch_session import TorchSession
from densepack_runtime.errors import InputError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.question_answering.squad import (
    SquadDataset,
    SquadScore,
    refuse_unscorable,
    score_predictions,
)
from densepack_runtime.question_answering.windows import DOC_STRIDE, MAX_LENGTH, Windower


class Evaluator:
    """Scores students on one data set. The generators of random numbers are left as they were.

    Raises InputError for questions that could not be answered or scored: a training would end with that.
    """

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
        self._refuse_unusable()

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

    def _refuse_unusable(self) -> None:
        if self.dataset.is_test_set:
            raise InputError("the evaluation data has no answers to score against: take a development set")
        refuse_unscorable(self.dataset)
        questions = self.dataset.questions
        pairs = ((question.question, question.context) for question in questions)
        found = zip(questions, self._windower.windows_or_errors(pairs, truncate_question=True), strict=True)
        faults = [f"{question.id!r:.60}: {fault}" for question, fault in found if isinstance(fault, InputError)]
        if faults:
            raise InputError(
                f"{len(faults)} of {len(questions)} questions of the evaluation data cannot be answered, first "
                f"{faults[0]}"
            )


class _Autocast(nn.Module):
    """Runs a module with matrix products in a shorter type."""

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._module, self._device, self._dtype = module, torch.device(device).type, dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device, dtype=self._dtype):
            start, end = self._module(*inputs)
        return start, end
