"""The question-answering pipeline of transformers 4.57 with its defaults, as the published model card uses it.

With --nn-pruning the model is packed by nn_pruning's `optimize_model` first, as the card says.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from speed_clock import Predict, arguments, run
from transformers import pipeline

from densepack_runtime.question_answering.squad import SquadDataset


def load_pipeline(model: str, *, nn_pruning: bool) -> Any:
    answer = pipeline("question-answering", model=model, tokenizer=model)
    if nn_pruning:
        from nn_pruning.inference_model_patcher import optimize_model

        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for every matrix
            answer.model = optimize_model(answer.model, "dense")
    return answer


def answers(answer: Any, dataset: SquadDataset) -> dict[str, str]:
    asked = [{"question": question.question, "context": question.context} for question in dataset.questions]
    found = answer(asked)
    found = found if isinstance(found, list) else [found]
    return {question.id: one["answer"] for question, one in zip(dataset.questions, found, strict=True)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--nn-pruning", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def load() -> Predict:
        answer = load_pipeline(options.model, nn_pruning=options.nn_pruning)
        return lambda dataset: answers(answer, dataset)

    run(options, load)


if __name__ == "__main__":
    main()
